"""Crowds can be counted, and every question has the answer that the truth gives."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhelpers import world
from sdhelpers.world import crowds, questions

seeds = st.integers(0, 100_000)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_every_object_of_a_crowd_is_seen_whole_and_apart(seed):
    crowd = crowds.sample(np.random.RandomState(seed))
    assert 1 <= len(crowd.nouns) == len(crowd.masks) <= crowds.MOST and len(set(crowd.nouns)) <= 2
    for i, mask in enumerate(crowd.masks):
        others = np.any([m for j, m in enumerate(crowd.masks) if j > i] or [np.zeros_like(mask)], axis=0)
        assert (mask & ~others).sum() > 0.5 * mask.sum() > 20, "what stands in front leaves most of it to be seen"


def test_crowds_of_each_number_come_about_as_often():
    counts = Counter(len(crowds.choose(np.random.RandomState(i), world.NOUNS)) for i in range(800))
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 140


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_answers_are_the_truth(seed):
    rng = np.random.RandomState(seed)
    crowd = crowds.sample(rng)
    asked = {question.kind: question for question in questions.about(crowd, rng)}
    noun = next(n for n in set(crowd.nouns) if f"how many {questions.plural(n)} " in asked["count"].text)
    assert asked["count"].answer == questions.NUMBERS[crowd.nouns.count(noun)]
    assert asked["style"].answer == crowd.style
    assert asked["colour" if crowd.place in world.COLOURS else "place"].answer == crowd.place
    existence = asked["existence"]
    named = any(existence.text == f"is there {questions.with_article(n)}?" for n in crowd.nouns)
    assert existence.answer == ("yes" if named else "no")


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_a_scene_of_two_asks_for_each_by_the_other(seed):
    rng = np.random.RandomState(seed)
    scene = world.sample(rng)
    description, asked = scene.description, questions.about(scene, rng)
    assert {q.kind for q in asked} <= set(questions.KINDS)
    of_two = [q for q in asked if q.kind == "relation"]
    assert bool(of_two) == (description.relation is not None)
    assert [q.answer for q in asked if q.kind == "noun"] == ([] if of_two else list(description.nouns))
    assert {q.answer for q in of_two} <= set(description.nouns)


def test_no_is_said_as_often_as_yes():
    said = Counter()
    for i in range(400):
        rng = np.random.RandomState(i)
        crowd = crowds.Crowd(None, crowds.choose(rng, world.NOUNS), "cartoon", "beach", [])
        said.update(q.answer for q in questions.about(crowd, rng) if q.kind == "existence")
    assert 160 < said["yes"] < 240


@pytest.mark.parametrize(
    ("noun", "several"),
    [("butterfly", "butterflies"), ("fox", "foxes"), ("owl", "owls"), ("snowman", "snowmen"), ("key", "keys")],
)
def test_plurals(noun, several):
    assert questions.plural(noun) == several


def test_every_nouns_plural_differs_or_is_known_not_to():
    assert all(
        questions.plural(n) != n or n in ("sheep", "fish", "scissors", "cherries", "grapes") for n in world.NOUNS
    )


def test_too_many_are_refused():
    with pytest.raises(ValueError, match="one to 4 objects, not 5"):
        crowds.draw(["owl"] * 5, "cartoon", "beach", np.random.RandomState(0))
