"""The order of near and far: known maps, and what luck is worth."""

import numpy as np
import pytest

from sdhelpers import world
from sdhelpers.measures.depth import order_right


@pytest.fixture(scope="module")
def truth():
    return world.draw(world.Description(("cat",), "cartoon", "beach"), np.random.RandomState(0)).depth


def test_the_truth_is_right_and_its_reverse_wrong(truth):
    assert order_right(truth, truth) == 1
    assert order_right(-truth, truth) == 0


def test_any_rising_scale_will_do(truth):
    assert order_right(5 * truth**3 - 2, truth) == 1, "estimators answer in units of their own"


def test_noise_is_right_by_half_and_a_flat_map_never(truth):
    noise = np.random.RandomState(1).standard_normal(truth.shape)
    assert abs(order_right(noise, truth) - 0.5) < 0.05
    assert order_right(np.ones_like(truth), truth) == 0, "who does not decide is not right"


def test_small_differences_are_not_asked_for():
    nearly_flat = np.linspace(0.5, 0.55, 100).reshape(10, 10)
    assert order_right(-nearly_flat, nearly_flat) == 1
    assert order_right(-nearly_flat, nearly_flat, least=0.01) == 0
