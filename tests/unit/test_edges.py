"""Edge maps and their agreement, against cases that can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from sdhelpers.measures.edges import agreement, edges, recall

maps = arrays(bool, (9, 11))


def test_the_edges_of_a_square_lie_around_it():
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste((255, 255, 255), (16, 16, 48, 48))
    found = edges(picture)
    rows, columns = np.nonzero(found)
    assert {rows.min(), columns.min()} <= {15, 16} and {rows.max(), columns.max()} <= {47, 48}
    assert not found[20:44, 20:44].any() and found.sum() > 100


def test_a_line_beside_the_wanted_one_counts_and_one_two_pixels_off_does_not():
    wanted, beside, off = (np.zeros((10, 10), bool) for _ in range(3))
    wanted[:, 4] = beside[:, 5] = off[:, 6] = True
    assert agreement(beside, wanted) == 1
    assert agreement(off, wanted) == 0
    assert agreement(off, wanted, tolerance=2) == 1


def test_half_of_a_line_has_all_precision_and_its_share_of_recall():
    wanted, half = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    wanted[:, 4], half[:5, 4] = True, True
    recall = 6 / 12  # five, and the one that touches them
    assert agreement(half, wanted) == pytest.approx(2 * recall / (1 + recall))


def test_recall_asks_only_for_what_is_wanted():
    wanted, all_over = np.zeros((12, 12), bool), np.ones((12, 12), bool)
    wanted[:, 4] = True
    assert recall(all_over, wanted) == 1 > agreement(all_over, wanted)
    assert recall(wanted, np.zeros_like(wanted)) == 1 and recall(np.zeros_like(wanted), wanted) == 0


@given(maps, maps)
def test_it_is_a_share_and_the_same_both_ways(one, other):
    assert 0 <= agreement(one, other) <= 1
    assert agreement(one, other) == pytest.approx(agreement(other, one))
    assert agreement(one, one) == 1


def test_nothing_against_something_is_zero():
    assert agreement(np.zeros((5, 5), bool), np.eye(5, dtype=bool)) == 0
