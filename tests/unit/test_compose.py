"""Models that share weights: put together once, rebuilt when anything changed, and equal to what they are made of."""

import json
import mmap
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPSegForImageSegmentation

from sdhelpers import models
from sdhelpers.models import ModelError, compose, sha256
from sdhelpers.paths import ROOT
from side_by_side import PATIENCE, PROCESSES, ROUNDS, ask_for_the_file, ask_in_rounds, stop_in_the_middle

SHARING = [name for name in models.REGISTRY if (models.POCKET / name / compose.OWN).exists() and name != "community"]


def test_some_models_share():
    assert {"clipseg", "inpainting", "safety-checker"} <= set(SHARING)


def test_clipseg_sees_with_pocket_clip():
    clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32)
    model = CLIPSegForImageSegmentation.from_pretrained(models.locate("clipseg"), dtype=torch.float32)
    shared = model.clip.state_dict()
    assert all(torch.equal(value, shared[name]) for name, value in clip.state_dict().items())


def test_the_safety_checker_sees_with_pocket_clip():
    clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32)
    checker = StableDiffusionSafetyChecker.from_pretrained(models.locate("safety-checker"), dtype=torch.float32)
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        expected = clip.get_image_features(pixel_values=pixels).pooler_output
        seen = checker.visual_projection(checker.vision_model(pixels)[1])
    assert torch.allclose(seen, expected, atol=1e-5)


def test_the_inpainting_unet_is_sd15_but_for_what_was_trained():
    base = UNet2DConditionModel.from_pretrained(models.locate("sd15") / "unet").state_dict()
    made = UNet2DConditionModel.from_pretrained(models.locate("inpainting") / "unet")
    changed = load_file(models.POCKET / "inpainting" / compose.OWN)
    assert made.config.in_channels == 9
    for name, value in made.state_dict().items():
        assert torch.equal(value, changed[name].float() if name in changed else base[name]), name


@pytest.fixture
def small(tmp_path):
    """Copies of pocket CLIP and of the safety checker, and an empty place to build in."""
    for name in ("clip", "safety-checker"):
        shutil.copytree(models.POCKET / name, tmp_path / "pocket" / name)
    return tmp_path / "pocket", tmp_path / "built"


def claim_other_weights(pocket: Path) -> None:
    """Change clip's card as another training would."""
    card = json.loads((pocket / "clip" / "card.json").read_text(encoding="utf-8"))
    card["files"]["model-00001-of-00002.safetensors"] = "0" * 64
    (pocket / "clip" / "card.json").write_text(json.dumps(card), encoding="utf-8")


def names(built: Path) -> list[str]:
    return sorted(path.name for path in built.iterdir())


def test_it_is_made_once_and_again_when_something_changed(small):
    pocket, built = small
    made = compose.complete(pocket / "safety-checker", pocket, built)
    weights = made / "model.safetensors"
    first = weights.stat().st_mtime_ns
    assert compose.complete(pocket / "safety-checker", pocket, built) == made
    assert weights.stat().st_mtime_ns == first, "not made a second time"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert compose.complete(pocket / "safety-checker", pocket, built) == made
    assert weights.stat().st_mtime_ns != first, "a damaged file is made again"
    claim_other_weights(pocket)
    again = compose.complete(pocket / "safety-checker", pocket, built)
    assert again != made, "other weights underneath: another folder"
    assert names(built) == [again.name, "safety-checker.lock"], "neither the earlier one nor a half-made one is left"


def test_what_is_left_of_this_model_is_cleared_and_others_stay(small):
    pocket, built = small
    for name in ("safety-checker", "safety-checker-0123abcd", "safety-checker.x1_yz.part", "safety-checker-two"):
        (built / name).mkdir(parents=True)
    (built / "safety-checker.safetensors").touch()
    made = compose.complete(pocket / "safety-checker", pocket, built)
    assert names(built) == [made.name, "safety-checker-two", "safety-checker.lock"]


def test_a_failure_leaves_nothing_behind(small):
    pocket, built = small
    (pocket / "safety-checker" / compose.OWN).write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"(?i)header"):
        compose.complete(pocket / "safety-checker", pocket, built)
    assert names(built) == ["safety-checker.lock"]


# Side by side: each of these starts real processes, as two notebooks are.


def test_of_several_processes_one_makes_it_and_all_get_it_whole(small):
    pocket, built = small
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    workers = [context.Process(target=ask_in_rounds, args=(pocket, built, barrier, answers)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=PATIENCE) for _ in range(PROCESSES * ROUNDS)]
    for worker in workers:
        worker.join()
    whole = compose.complete(pocket / "safety-checker", pocket, built / "alone")
    expected = {path.name: sha256(path) for path in whole.iterdir()}
    for number in range(ROUNDS):
        assert [digests for n, digests, _ in got if n == number] == [expected] * PROCESSES
        assert sum(made for n, _, made in got if n == number) == 1, "the others waited"
        assert names(built / str(number)) == [whole.name, "safety-checker.lock"]


def test_of_two_processes_one_makes_the_single_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=ask_for_the_file, args=(tmp_path, barrier, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=PATIENCE) for _ in workers]
    for worker in workers:
        worker.join()
    card = json.loads((models.POCKET / "community" / "card.json").read_text(encoding="utf-8"))
    assert sorted(got) == [(card["single_file_sha256"], 0), (card["single_file_sha256"], 1)]
    folder, lock = names(tmp_path)
    assert folder.startswith("community-") and lock == "community.lock"
    assert names(tmp_path / folder) == ["community.safetensors", compose.STAMP]


def test_after_a_process_that_was_killed_in_the_middle_the_next_one_succeeds(small):
    pocket, built = small
    context = multiprocessing.get_context("spawn")
    in_the_middle = context.Event()
    first = context.Process(target=stop_in_the_middle, args=(pocket, built, in_the_middle))
    first.start()
    assert in_the_middle.wait(PATIENCE)
    assert [name for name in names(built) if name.endswith(".part")], "something half-made was there"
    first.kill()
    first.join()
    made = compose.complete(pocket / "safety-checker", pocket, built)
    StableDiffusionSafetyChecker.from_pretrained(made)
    assert names(built) == [made.name, "safety-checker.lock"]


def replace_by_damage(pocket: Path, weights: Path) -> None:
    """Another file in the place of the weights, as a broken disk repair leaves it; the one that is open stays."""
    weights.with_name("damaged").write_bytes(b"damaged")
    weights.with_name("damaged").replace(weights)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pocket, weights: claim_other_weights(pocket), id="other weights"),
        pytest.param(
            replace_by_damage,
            id="damage",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody replace a mapped file"),
        ),
    ],
)
def test_who_still_reads_the_old_folder_goes_on_reading(small, change):
    pocket, built = small
    weights = compose.complete(pocket / "safety-checker", pocket, built) / "model.safetensors"
    content = weights.read_bytes()
    with open(weights, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        change(pocket, weights)
        again = compose.complete(pocket / "safety-checker", pocket, built) / "model.safetensors"
        assert mapped[:] == content == again.read_bytes()


# Where it cannot be made: one sentence that says what to do.


def test_a_disk_that_fills_up_is_one_sentence(tmp_path):
    """A limit on the size of files breaks the same writes off as a full disk does, in the middle."""
    pytest.importorskip("resource", reason="only POSIX limits the size of files")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from sdhelpers import models\n"
        "from sdhelpers.models import compose\n"
        "built = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "for name in ('inpainting', 'safety-checker'):\n"
        "    try: compose.complete(models.POCKET / name, models.POCKET, built)\n"
        "    except models.ModelError as error: print(error)\n"
    )
    run = [sys.executable, "-c", program, str(tmp_path / "built")]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    copied, saved = done.stdout.splitlines()
    for name, line in (("inpainting", copied), ("safety-checker", saved)):
        assert line.startswith(f"'{name}' could not be put together in {tmp_path / 'built'} (")
        assert "File too large" in line and "MB are free there" in line and line.endswith("run the cell again.")
    assert names(tmp_path / "built") == ["inpainting.lock", "safety-checker.lock"]


def test_too_little_room_is_told_before_anything_is_written(small, monkeypatch):
    pocket, built = small
    monkeypatch.setattr(compose.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**6))
    with pytest.raises(ModelError, match=r"which takes 2\d MB, and 1 MB are free there: free some disk"):
        compose.complete(pocket / "safety-checker", pocket, built)
    assert names(built) == ["safety-checker.lock"]


def test_a_folder_that_cannot_be_made_is_one_sentence(small):
    pocket, built = small
    built.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(ModelError, match=r"could not be put together in .*built \(.+\): see .*you may write there"):
        compose.complete(pocket / "safety-checker", pocket, built)


def test_a_program_that_never_ends_is_not_waited_for_for_ever(small, monkeypatch):
    pocket, built = small
    monkeypatch.setattr(compose, "PATIENCE", 0.1)
    built.mkdir()
    with (
        compose.FileLock(built / "safety-checker.lock"),
        pytest.raises(ModelError, match=r"lock.*no other program holds it"),
    ):
        compose.complete(pocket / "safety-checker", pocket, built)


def test_names_take_the_longest_fitting_beginning():
    beginnings = {"": "clip.", "text_model.": "text."}
    assert compose.rename("text_model.a", beginnings) == "text.a"
    assert compose.rename("visual.a", beginnings) == "clip.visual.a"
    assert compose.rename("a", {"b.": "c."}) is None
