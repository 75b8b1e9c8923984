"""Moving scenes: the flow is the truth about the frames, by warping and by OpenCV's own estimate."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhelpers.world import clips
from sdhelpers.world.captions import Description

OWL = Description(("owl",), "cartoon", "meadow")
CASES = [(motion, None) for motion in clips.MOTIONS] + [("still", camera) for camera in clips.CAMERAS]
RIGHT, DOWN = (1, 0), (0, 1)
WAYS = {
    "right": RIGHT,
    "left": (-1, 0),
    "fall": DOWN,
    "rise": (0, -1),
    "pan left": RIGHT,
    "pan right": (-1, 0),
    "tilt up": DOWN,
    "tilt down": (0, -1),
}


def clip_of(motion: str, camera: str | None, description: Description = OWL) -> clips.Clip:
    return clips.draw(description, motion, camera, np.random.RandomState(7))


def grey(image) -> np.ndarray:
    return np.asarray(image.convert("L"))


@pytest.mark.parametrize(("motion", "camera"), CASES)
def test_the_next_frame_fetched_along_the_flow_is_this_one(motion, camera):
    clip = clip_of(motion, camera)
    x, y = np.meshgrid(*[np.arange(128, dtype=np.float32)] * 2)
    for t in (0, 7, 14):
        now, then, flow = grey(clip.frames[t]), grey(clip.frames[t + 1]), clip.flow[t]
        fetched = cv2.remap(then, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        inside = (np.abs(x + flow[..., 0] - 63.5) < 62) & (np.abs(y + flow[..., 1] - 63.5) < 62)
        after = cv2.dilate(clip.masks[t + 1].astype(np.float32), np.ones((3, 3)))
        hidden = (cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR) > 0) & ~clip.masks[t]
        error, still = (np.abs(a.astype(int) - now)[inside & ~hidden].mean() for a in (fetched, then))
        assert error < 2, "the object's soft edge and its shadow alone differ"
        assert still == 0 if np.abs(flow).max() == 0 else error < 0.75 * still


@pytest.mark.parametrize("name", WAYS)
def test_an_independent_flow_goes_the_same_way(name):
    clip = clip_of(name, None) if name in clips.MOTIONS else clip_of("still", name)
    found = np.mean(
        [
            cv2.calcOpticalFlowFarneback(grey(a), grey(b), None, 0.5, 3, 15, 3, 5, 1.2, 0)[mask].mean(0)
            for a, b, mask in zip(clip.frames, clip.frames[1:], clip.masks)
        ],
        axis=0,
    )
    along, across = found @ WAYS[name], found @ WAYS[name][::-1]
    assert along > 1 and abs(across) < 0.3 * along


@pytest.mark.parametrize(("camera", "sign"), [("zoom in", 1), ("zoom out", -1)])
def test_a_zoom_moves_everything_away_from_the_middle_or_towards_it(camera, sign):
    flow, outwards = clip_of("still", camera).flow, clips.grid(128) - 0.5
    assert (np.sign((flow * outwards).sum(-1)) == sign).mean() > 0.99


def test_a_roll_turns_the_camera_so_what_it_sees_turns_back():
    flow, outwards = clip_of("still", "roll clockwise").flow[3], clips.grid(128) - 0.5
    turning = outwards[..., 0] * flow[..., 1] - outwards[..., 1] * flow[..., 0]  # positive is clockwise, y being down
    assert (turning < 0).mean() > 0.99


@given(camera=st.sampled_from([None, *clips.CAMERAS]), t=st.floats(0, 1))
def test_the_window_never_leaves_the_picture(camera, t):
    corners = clips.mapped(clips.window(camera, t), np.array([(0, 0), (0, 1), (1, 0), (1, 1)]))
    assert corners.min() >= -1e-9 and corners.max() <= 1 + 1e-9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_sample_is_whole_and_the_same_again(seed):
    clip, again = (clips.sample(np.random.RandomState(seed), frames=3) for _ in range(2))
    assert len(clip.frames) == 3 and clip.flow.shape == (2, 128, 128, 2) and clip.masks.shape == (3, 128, 128)
    assert clip.caption == again.caption and all(np.array_equal(a, b) for a, b in zip(clip.frames, again.frames))
    assert clip.masks.any(axis=(1, 2)).all() and np.isfinite(clip.flow).all()


def test_the_path_is_where_the_object_is():
    clip = clip_of("right", None)
    middles = np.array([np.argwhere(mask)[:, ::-1].mean(0) for mask in clip.masks])
    assert np.abs((middles - middles[0]) - (clip.path - clip.path[0])).max() < 1


def test_words_say_what_moves():
    assert any(words in clip_of("right", None).caption for words in clips.MOTIONS["right"])
    assert "flying to the left" in clip_of("left", None, Description(("rocket",), "cartoon", "night")).caption
    assert any(words in clip_of("still", "zoom in").caption for words in clips.CAMERAS["zoom in"])


@pytest.mark.parametrize(
    ("motion", "camera", "nouns"),
    [("dance", None, ("owl",)), ("still", "jump", ("owl",)), ("left", None, ("owl", "cat"))],
)
def test_what_the_world_lacks_is_said(motion, camera, nouns):
    with pytest.raises(ValueError, match=r"see sdhelpers.world.clips|one noun"):
        clips.draw(Description(nouns, "cartoon", "meadow"), motion, camera, np.random.RandomState(0))
