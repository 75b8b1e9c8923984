"""SDXL's recipes, before any training: what a picture's original is, what both UNets begin with, hear and are told."""

import argparse
import copy
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

import assemble
import encode
import originals
import places
import stages
from conditioning_xl import PairedConditioning, SecondConditioning
from evaluations import sdxl as evaluation
from loop import stacked
from parts import sdxl_refiner, sdxl_text, sdxl_unet, sdxl_vae
from sdhelpers import models, world
from sdhelpers.measures.pixels import sharpness
from sdhelpers.models import folders
from sdhelpers.models.registry import read_registry
from sdhelpers.paths import NOTEBOOKS
from sdhelpers.world import Description

CPU = torch.device("cpu")
WIDTH, FIRST = 24, 128  # of the second encoder here, and of sd15's
TEXT = dict(hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, projection_dim=WIDTH)
TEXT |= dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=0)
PLAIN = dict(sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4)
PLAIN |= dict(block_out_channels=(8, 16, 16), attention_head_dim=[2, 2, 2], cross_attention_dim=FIRST)
UNET = PLAIN | dict(
    cross_attention_dim=FIRST + WIDTH,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 1, 2],
    reverse_transformer_layers_per_block=[1, 1, 1],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=6 * 4 + WIDTH,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A second text encoder that nobody trained, but for its tokens: those that the world never says are alike."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "sdxl_text" / "export"
    tower = sdxl_text.SecondTower(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), 192)
    folder.mkdir(parents=True)
    sdxl_text.export(tower, folder, argparse.Namespace())
    return folder


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(1)
    return UNet2DConditionModel(**UNET).eval()


def told(pooled: torch.Tensor, ids: list[float]) -> dict[str, torch.Tensor]:
    return {"text_embeds": pooled, "time_ids": torch.tensor([ids] * len(pooled))}


# The world's originals.


def test_a_window_moves_the_scene_and_shows_no_second_object():
    for number in range(6):
        task = Description(("cat",), "cartoon", world.PLACES[number])
        plain, moved = (
            world.draw(task, np.random.RandomState(number), 192, latent_grid=True, window=window)
            for window in ((0, 0), (16, 48))
        )
        pixels, shifted = np.asarray(plain.image), np.asarray(moved.image)
        close = np.abs(pixels[16:, 48:].astype(int) - shifted[:-16, :-48]).max()
        assert close <= 1 and np.array_equal(plain.masks[0][16:, 48:], moved.masks[0][:-16, :-48])
        assert not moved.masks[0][-16:].any() and moved.depth.shape == (192, 192)


def test_objects_of_larger_pictures_lie_on_whole_latents_too():
    task, found = Description(("cat",), "cartoon", "red"), set()
    for seed in range(30):
        left, top, right, bottom = world.draw(task, np.random.RandomState(seed), 192, latent_grid=True).boxes[0]
        if left > 0 and right < 192:  # not cut off
            found.add((right - left, bottom - top, left % 8, top % 8))
    assert len(found) == 5, "one position for each of five sizes"


def test_originals_are_of_all_sizes_and_often_cropped():
    every = [originals.original(number, "plain", 192) for number in range(2000)]
    sizes, lefts = np.array([o.size for o in every]), np.array([o.left for o in every])
    assert 48 <= sizes.min() < 60 and 370 < sizes.max() <= 384
    assert abs((sizes < 192).mean() - 0.3) < 0.04 and abs((sizes == 192).mean() - 0.55) < 0.04
    assert abs((lefts > 0).mean() - 0.35) < 0.04 and set(lefts) == set(range(0, 80, 8))
    assert abs(np.corrcoef(lefts, [o.top for o in every])[0, 1]) < 0.06, "top and left are told independently"
    assert all(o.top == o.left == 0 for o in (originals.original(n, "cropped", 192) for n in range(50)))
    assert every[5].time_ids(192) == [every[5].size] * 2 + [every[5].top, every[5].left, 192, 192]


def test_a_small_original_is_soft_and_a_large_one_is_not():
    image = world.draw(Description(("owl",), "cartoon", "city"), np.random.RandomState(0), 192).image
    assert originals.soften(image, 300) is image
    soft = [sharpness(originals.soften(image, side)) for side in (48, 96, 160)]
    assert soft[0] < soft[1] < soft[2] < sharpness(image) and soft[0] < 0.5 * sharpness(image)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Latents of some originals of 64 pixels, made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "RUNS", tmp_path_factory.mktemp("runs"))
        patch.setattr(encode, "PER_FILE", 24)
        arguments = ["--originals", "--size", "64", "--nouns", "all", "--vae", str(models.POCKET / "sd15" / "vae")]
        encode.main([*arguments, "--count", "24", "--out", "tiny"])
        yield places.RUNS / "tiny"


def test_latents_come_with_what_their_originals_were(cache):
    data = originals.OriginalLatents(cache, places.nouns("all"))
    latents, _, ids, nouns, masks = data[0]
    assert latents.shape == (4, 8, 8) and masks.shape == (2, 8, 8) and ids.shape == (6,)
    number = int(data.arrays["numbers"][data.index(0)])
    scene = originals.draw(number, places.nouns("all"), 64)
    known = originals.original(number, scene.description.quality, 64)
    assert ids.tolist() == known.time_ids(64) and nouns == scene.description.nouns
    covered = scene.masks[0].reshape(8, 8, 8, 8).mean((1, 3))
    np.testing.assert_allclose(masks[0], covered, atol=1 / 255)
    scored = sdxl_refiner.ScoredLatents(cache, places.nouns("all"))
    *_, five = scored[0]
    assert five[:4].tolist() == ids[:4].tolist() and five.shape == (5,) and 1 <= five[4] <= 7


# The second text encoder.


def test_the_second_tokenizer_fills_up_with_zeros():
    tokenizers = CLIPTokenizer.from_pretrained(models.POCKET / "sd15" / "tokenizer"), sdxl_text.second_tokenizer()
    first, second = (one("a cat", padding="max_length", max_length=77).input_ids for one in tokenizers)
    assert first[:4] == second[:4] == [49406, 320, 2368, 49407]
    assert set(first[4:]) == {49407} and set(second[4:]) == {0} and len(second) == 77


def test_the_contrastive_loss_moves_the_text_alone():
    torch.manual_seed(0)
    tower = sdxl_text.SecondTower(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), 192)
    data = sdxl_text.CaptionedScenes()
    training = argparse.Namespace(device=CPU, options=argparse.Namespace(clip=models.POCKET / "clip"))
    contrast = sdxl_text.Contrast(training)
    image, ids, labels = contrast.prepare(data.collate([data[i] for i in range(4)]))
    assert image.shape == (4, 192) and ids[0, 0] == 49406
    ends = sdxl_text.at_the_end(tower.text, ids)
    assert [ids[i, end].item() for i, end in enumerate(ends)] == [49407] * 4
    loss, metrics = contrast.loss_of(tower, image, ids, labels)
    loss.backward()
    assert set(metrics) == {"contrastive", "embedding", "penultimate", "right"}
    assert tower.text.text_projection.weight.grad.abs().sum() > 0 and tower.image_projection.weight.grad is not None
    assert all(p.grad is None for p in contrast.tower.parameters())


# The VAE.


def test_noise_is_measured_by_each_channel_and_latents_are_mirrored_and_halved_with_their_pictures():
    mean = torch.randn(64, 4, 6, 6) * torch.tensor([1.0, 2.0, 0.5, 4.0])[:, None, None]
    noise = sdxl_vae.with_noise(mean, mean, torch.full((64,), 0.3)) - mean
    torch.testing.assert_close(noise.std((0, 2, 3)) / mean.std((0, 2, 3)), torch.full((4,), 0.3), rtol=0.1, atol=0)
    vae = AutoencoderKL.from_pretrained(models.POCKET / "sd15" / "vae", dtype=torch.float32)
    options = argparse.Namespace(kl=1e-4)
    training = argparse.Namespace(model=vae, device=CPU, options=options, progress=argparse.Namespace(step=0))
    robust = sdxl_vae.RobustAutoencoding(training)
    pixels = torch.stack([sdxl_vae.data(argparse.Namespace(crop=32, size=64))[i] for i in range(2)])
    assert pixels.shape == (2, 3, 32, 32)
    for halved in (False, True):
        robust.coin = lambda chance, halved=halved: halved
        loss, metrics = robust.loss_of(vae, *robust.prepare(pixels))
        assert torch.isfinite(loss) and metrics["psnr"] > 10, "the whole picture, not another one"
    loss.backward()
    for name in ("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight"):
        assert vae.get_parameter(name).grad.abs().sum() > 0


# The UNets.


def sd15_in_small() -> UNet2DConditionModel:
    """Without attention where the latents are finest, as this is left out; and none at the last level, as in sd15."""
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    return UNet2DConditionModel(**PLAIN, down_block_types=down, up_block_types=up).eval()


@torch.no_grad()
def test_the_base_begins_with_what_sd15_says_of_the_mapped_words():
    torch.manual_seed(0)
    sd15, matrix, offset = sd15_in_small(), torch.randn(FIRST, FIRST + WIDTH) / 12, torch.randn(FIRST)
    unet = sdxl_unet.begin(sd15, UNET, matrix, offset).eval()
    latents, steps, texts = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 77, FIRST + WIDTH)
    known = told(torch.randn(2, WIDTH), [192.0, 192, 0, 0, 192, 192])
    said = sd15(latents, steps, texts @ matrix.T + offset).sample
    torch.testing.assert_close(unet(latents, steps, texts, added_cond_kwargs=known).sample, said, atol=1e-4, rtol=1e-4)
    unet.add_embedding.linear_2.weight += 0.1
    assert not torch.allclose(unet(latents, steps, texts, added_cond_kwargs=known).sample, said, atol=1e-3)


def test_what_is_new_in_the_base_learns_from_the_first_step():
    unet = sdxl_unet.begin(sd15_in_small(), UNET, torch.randn(FIRST, FIRST + WIDTH) / 12, torch.zeros(FIRST))
    known = told(torch.randn(1, WIDTH), [192.0, 192, 0, 0, 192, 192])
    texts = torch.randn(1, 77, FIRST + WIDTH)
    unet(torch.randn(1, 4, 8, 8), 500, texts, added_cond_kwargs=known).sample.square().sum().backward()
    for name in ("down_blocks.2.attentions.0.proj_out", "add_embedding.linear_2"):
        assert unet.get_parameter(f"{name}.weight").grad.abs().sum() > 0
    second = "mid_block.attentions.0.transformer_blocks.1"
    assert unet.get_parameter(f"{second}.ff.net.2.weight").grad.abs().sum() > 0


def test_the_embeddings_of_training_are_the_pipelines(text, base):
    conditioning = PairedConditioning(text, CPU)
    captions = ["a cartoon of a cat on a beach", "an owl"]
    pipe = conditioning.pipeline(base, None)
    embeds, empty, pooled, nothing = pipe.encode_prompt(captions, device="cpu")
    ours, ours_pooled = conditioning.both(captions, captions)
    assert ours.shape == (2, 77, FIRST + WIDTH) and ours_pooled.shape == (2, WIDTH)
    torch.testing.assert_close(ours, embeds)
    torch.testing.assert_close(ours_pooled, pooled)
    assert not empty.any() and not nothing.any(), "the pipeline's own empty prompt is zeros"
    refined, alone = SecondConditioning(text, CPU).embed(captions)
    torch.testing.assert_close(refined, embeds[..., FIRST:])
    torch.testing.assert_close(alone, pooled)


def test_empty_captions_are_mostly_zeros_and_some_are_read_by_one_encoder_alone(text):
    torch.manual_seed(0)
    conditioning = PairedConditioning(text, CPU)
    captions = ["", "a cat"] * 60
    *_, texts, _, pooled, ids = conditioning.prepare((torch.randn(120, 4, 8, 8), captions, torch.zeros(120, 6)))
    zero = (texts == 0).flatten(1).all(1)
    assert torch.equal(zero, (pooled == 0).all(1)) and not zero[1::2].any() and ids.shape == (120, 6)
    assert 0.5 < zero[::2].float().mean() < 0.9
    full, _ = conditioning.both(["a cat"], ["a cat"])
    differs = (texts[1::2] - full).abs() > 1e-3
    first, second = differs[..., :FIRST].flatten(1).any(1), differs[..., FIRST:].flatten(1).any(1)
    assert 0 < first.sum() < 12 and 0 < second.sum() < 12 and not (first & second).any()


def test_a_step_of_the_base_and_one_of_the_refiner(text, base, cache):
    torch.set_flush_denormal(True)  # as in every training
    unet = copy.deepcopy(base).train()
    data = sdxl_unet.data(argparse.Namespace(latents=cache, nouns="all"))
    grounding = sdxl_unet.LevelGrounding(unet, PairedConditioning(text, CPU))
    grounding.sides = (4, 2)  # here the latents are 8x8
    loss, metrics = grounding.loss_of(unet, *grounding.prepare(stacked([data[i] for i in range(6)])))
    loss.backward()
    assert set(metrics) == {"plain_mse", "attention_beside"} and unet.add_embedding.linear_1.weight.grad is not None
    refiner = sdxl_refiner.begin(base, WIDTH).train()
    data = sdxl_refiner.data(argparse.Namespace(latents=cache, nouns="all"))
    last = sdxl_refiner.LastSteps(text, CPU)
    tensors = last.prepare(stacked([data[i] for i in range(6)]))
    assert tensors[2].max() < sdxl_refiner.FIRST_STEP and tensors[3].shape == (6, 77, WIDTH)
    last.loss_of(refiner, *tensors)[0].backward()
    assert refiner.add_embedding.linear_1.weight.grad[:, -4:].abs().sum() > 0, "the score is heard"


def test_a_look_at_what_the_base_draws_is_kept_and_judged(text, base, tmp_path, monkeypatch):
    monkeypatch.setattr(sdxl_unet, "PROBED", 2)
    options = argparse.Namespace(text=text, vae=models.POCKET / "sd15" / "vae", size=64, nouns="all")
    training = argparse.Namespace(model=copy.deepcopy(base), device=CPU, options=options, folder=tmp_path)
    found = sdxl_unet.Drawing(training).probe(training.model, 500)
    assert 0 <= found["noun_right"] <= 1 and (tmp_path / "probes" / "00500.png").exists()


def test_the_base_is_asked_for_a_noun_where_sdxl_has_attention_above_the_last_level():
    architecture = stages.config("sdxl_unet")["architecture"]
    assert architecture["down_block_types"].index("CrossAttnDownBlock2D") == 1
    assert sdxl_unet.LevelGrounding.sides == (24 // 2, 16 // 2)


@torch.no_grad()
def test_the_refiner_begins_as_the_base_that_hears_the_second_encoder_alone(base):
    quiet = copy.deepcopy(base)
    quiet.add_embedding.linear_1.weight[:, -8:] = 0  # what the base is told of the target's size
    refiner = sdxl_refiner.begin(base, WIDTH).eval()
    latents, texts, pooled = torch.randn(2, 4, 8, 8), torch.randn(2, 77, WIDTH), torch.randn(2, WIDTH)
    both = torch.cat([torch.zeros(2, 77, FIRST), texts], dim=-1)
    expected = quiet(latents, 100, both, added_cond_kwargs=told(pooled, [96.0, 96, 8, 16, 192, 192])).sample
    for score in (6.0, 2.5):
        said = refiner(latents, 100, texts, added_cond_kwargs=told(pooled, [96.0, 96, 8, 16, score])).sample
        torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-4)


def test_scores_say_what_a_picture_is_worth():
    worth = sdxl_refiner.aesthetic_score
    assert set(sdxl_refiner.WORTH) == set(world.QUALITIES)
    assert worth("best", 1.0) > worth("plain", 1.5) == worth("plain", 1.0) > worth("plain", 0.5) > worth("blurry", 1.0)
    assert worth("blurry", 0.25) == 1.0


# What is shipped.


@pytest.fixture(scope="module")
def shipped(text, base, tmp_path_factory):
    """Both models in small, assembled into a folder of their own as the draft of the registry says."""
    root, patch = tmp_path_factory.mktemp("shipped"), pytest.MonkeyPatch()
    pocket, runs = root / "pocket", root / "runs"
    for name in ("sd15", "classifier"):
        shutil.copytree(models.POCKET / name, pocket / name)
    for name, entry in read_registry(NOTEBOOKS / "drafts" / "registry_sdxl.toml").items():
        patch.setitem(models.REGISTRY, name, entry)
    for module in (places, folders):
        patch.setattr(module, "POCKET", pocket)
    patch.setattr(folders, "BUILT", root / "built")
    patch.setattr(places, "RUNS", runs)
    patch.setattr(places, "CURVES", root / "curves")
    patch.setattr(models, "POCKET", pocket)
    shutil.copytree(text, runs / "sdxl_text" / "export")
    exports = {part: runs / part / "export" for part in ("sdxl_vae", "sdxl_unet", "sdxl_refiner")}
    for folder in exports.values():
        folder.mkdir(parents=True)
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=0.5, sample_size=16)
    vae.half().save_pretrained(exports["sdxl_vae"])
    sdxl_unet.export(copy.deepcopy(base), exports["sdxl_unet"], argparse.Namespace(nouns="all"))
    torch.manual_seed(2)
    refiner = sdxl_refiner.begin(UNet2DConditionModel.from_pretrained(exports["sdxl_unet"]), WIDTH)
    with torch.no_grad():
        for name, parameter in refiner.named_parameters():
            if parameter.ndim == 2 and "add" not in name:
                parameter += 0.05 * torch.outer(torch.randn(len(parameter)), torch.randn(parameter.shape[1]))
    options = argparse.Namespace(base=exports["sdxl_unet"], rank=2)
    sdxl_refiner.export(refiner, exports["sdxl_refiner"], options)
    fact = '{"recipe": "", "steps": 1, "samples": 1, "minutes": 1, "device": "", "date": ""}'
    for part in ("sdxl_text", *exports):
        (runs / part / "export" / "facts.json").write_text(fact, encoding="utf-8")
    for name in ("sdxl", "sdxl-refiner"):
        assemble.assemble(name, {})
    yield refiner
    patch.undo()


def test_both_are_put_together_and_draw_one_after_the_other(shipped, text):
    pipe = StableDiffusionXLPipeline.from_pretrained(models.locate("sdxl"))
    refine = StableDiffusionXLImg2ImgPipeline.from_pretrained(models.locate("sdxl-refiner"))
    assert refine.config.requires_aesthetics_score and refine.text_encoder is None and refine.tokenizer is None
    assert pipe.config.force_zeros_for_empty_prompt and not refine.config.force_zeros_for_empty_prompt
    assert pipe.tokenizer_2.pad_token == "!" and refine.tokenizer_2.pad_token == "!"
    for mine, theirs in zip(
        pipe.text_encoder_2.parameters(), CLIPTextModelWithProjection.from_pretrained(text).parameters()
    ):
        torch.testing.assert_close(mine, theirs.float(), rtol=0, atol=0)
    for one in (pipe, refine):
        one.set_progress_bar_config(disable=True)
    settings = dict(prompt="a cartoon of a cat", num_inference_steps=5)
    latents = pipe(**settings, height=16, width=16, denoising_end=0.8, output_type="latent").images
    assert latents.shape == (1, 4, 8, 8)
    assert refine(**settings, image=latents, denoising_start=0.8).images[0].size == (16, 16)


def test_of_the_refiner_only_what_differs_is_shipped_and_it_is_whole_again(shipped):
    whole = UNet2DConditionModel.from_pretrained(models.locate("sdxl-refiner") / "unet").state_dict()
    for name, tensor in shipped.state_dict().items():
        torch.testing.assert_close(whole[name], tensor.float(), atol=5e-3, rtol=5e-3, msg=name)
    own = {path.name for path in (places.POCKET / "sdxl-refiner").rglob("*.safetensors")}
    assert own == {"changed.safetensors", "low_rank.safetensors"}
    assert not (places.POCKET / "sdxl" / "text_encoder").exists()
    assert (places.POCKET / "sdxl" / "text_encoder_2" / "changed.safetensors").stat().st_size < 2e5


def test_both_are_scored(shipped, monkeypatch):
    monkeypatch.setattr(evaluation, "STEPS", 5)
    monkeypatch.setattr(evaluation, "FEW", 2)
    monkeypatch.setattr(evaluation, "LEFTS", (0, 0.5))  # 8 of 16 pixels
    scores = evaluation.evaluate(argparse.Namespace(images=2)).scores
    assert len(scores["sharpness: told of a small / an equal / a large original"]) == 3
    assert {"noun right, held-out captions", "place against crop, correlation", "both nouns right, two objects"} < set(
        scores
    )
    assert 0 <= scores["low frequencies, refined and not"] < scores["low frequencies, two different pictures"]
