"""The judge of motions, on clips whose truth is known."""

import numpy as np
import pytest

from sdhelpers.measures import motion
from sdhelpers.world import clips
from sdhelpers.world.captions import Description

CASES = [(kind, None) for kind in clips.MOTIONS] + [("still", camera) for camera in clips.CAMERAS]
PLACES = ("meadow", "city", "room")
OWL = Description(("owl",), "cartoon", "city")


def clip_of(kind: str, camera: str | None, place: str, frames: int = 8) -> clips.Clip:
    return clips.draw(Description(("owl",), "cartoon", place), kind, camera, np.random.RandomState(3), frames=frames)


@pytest.mark.parametrize(("kind", "camera"), CASES)
def test_every_motion_of_the_world_is_named(kind, camera):
    named = [motion.named(clip_of(kind, camera, place).frames) for place in PLACES]
    assert named.count(camera or kind) >= 2


@pytest.mark.parametrize("kind", [*clips.BACKWARDS])
def test_a_clip_from_its_end_has_the_opposite_name(kind):
    clip = clip_of(*((kind, None) if kind in clips.MOTIONS else ("still", kind)), "meadow", 16)
    assert motion.named(clip.frames) == kind and motion.named(clip.frames[::-1]) == clips.BACKWARDS[kind]


def test_the_estimated_flow_is_near_the_true_one():
    clip = clip_of("still", "pan left", "city")
    found, textured = motion.flows(clip.frames), np.stack([motion.texture(f) > 20 for f in clip.frames[:-1]])
    error = np.linalg.norm(found - clip.flow, axis=-1)[textured]
    assert np.median(error) < 0.1 * np.median(np.linalg.norm(clip.flow, axis=-1))


def test_what_the_whole_frame_does_is_what_the_camera_does():
    moved = motion.whole(clip_of("still", "zoom in", "city").frames)
    assert moved.zoom == pytest.approx(1 / clips.WINDOW, rel=0.1) and abs(moved.turn) < 2
    turned = motion.whole(clip_of("still", "roll clockwise", "city").frames)
    assert turned.turn == pytest.approx(-clips.ANGLE, rel=0.2) and abs(np.log(turned.zoom)) < 0.05


def still_frames():
    return clip_of("still", None, "city").frames


def test_nothing_moves_in_a_still_clip():
    frames = still_frames()
    assert not motion.inside(frames).any() and not motion.camera_moves(frames)


def test_what_comes_back_is_no_camera():
    ways = (0, 3, 0, 0, -3, 0, 0, 0)
    frames = [frame.transform(frame.size, 0, (1, 0, way, 0, 1, 0)) for frame, way in zip(still_frames(), ways)]
    assert motion.inside(frames).any() and not motion.camera_moves(frames)


@pytest.mark.parametrize("kind", ["left", "rise"])
def test_a_direction_is_named_as_what_it_is_known_to_be_of(kind):
    frames = clip_of(kind, None, "city").frames
    assert motion.named(frames, camera=False) == kind and motion.named(frames, camera=True) in clips.CAMERAS


@pytest.mark.parametrize("kind", ["right", "jump", "still", "pan left", "zoom out"])
def test_larger_frames_are_named_alike(kind):
    motion_of, camera = (kind, None) if kind in clips.MOTIONS else ("still", kind)
    large = clips.draw(OWL, motion_of, camera, np.random.RandomState(3), size=256, frames=8)
    assert motion.named(large.frames) == kind
