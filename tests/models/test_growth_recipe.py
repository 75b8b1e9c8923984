"""The film of a UNet that learns from nothing: what it learns from, and that its rows are what is told of them."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

import latents
from parts import growth
from probes import keep_strip
from sdhelpers import world

pytestmark = pytest.mark.models
LEARNT = ["cat", "owl"]


def test_it_learns_from_plain_scenes_of_one_known_thing(tmp_path):
    nouns, numbers = ["cat", "owl", "fish"], np.arange(60)
    arrays = {"numbers": numbers, "latents": np.zeros((60, 4, 16, 16), np.float16)}
    arrays["latents"][:, 0, 0, 0] = numbers
    latents.save_arrays(tmp_path / "0.npz", arrays)
    data = growth.OneObject(tmp_path, nouns, LEARNT)
    assert 0 < len(data.descriptions) == len(data.latents) < 60
    for description, latent in zip(data.descriptions, data.latents):
        assert len(description.nouns) == 1 and description.nouns[0] in LEARNT
        assert description.quality in ("plain", "best")
        assert description == world.describe(np.random.RandomState(int(latent[0, 0, 0])), nouns)


def test_the_film_shows_the_steps_that_are_told(tmp_path):
    steps = list(range(0, 1500, 60))
    for step in steps:
        keep_strip(tmp_path, step, [Image.new("RGB", (128, 128), (step % 256, 0, 0))] * 8)
    (tmp_path / "history.json").write_text(json.dumps([{"step": 0, "noun": 0.1}]), encoding="utf-8")
    growth.tell(tmp_path, argparse.Namespace(learnt=",".join(LEARNT)))
    told = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    assert told["film"][0] == 0 and told["film"][-1] == steps[-1] and set(told["film"]) <= set(steps)
    assert told["history"] == [{"step": 0, "noun": 0.1}]
    assert all(any(noun in caption for noun in LEARNT) for caption in told["captions"])
    with Image.open(tmp_path / "growth.webp") as film:
        assert film.size == (776, 4 + 151 * len(told["film"]))
        for row, step in enumerate(told["film"]):
            assert abs(film.convert("RGB").getpixel((60, 4 + 151 * row + 60))[0] - step % 256) < 12
