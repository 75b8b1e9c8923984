"""What the training recipes compute, where a mistake would only show after hours of training."""

import copy
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageEnhance, ImageFilter

import encode
import fidelity
import keep
import places
from conditioning import LARGEST_WEIGHT, Conditioning
from latents import Latents, chosen
from loop import learning_rate_factor, stacked
from parts.guidance_scale import Blunting
from parts.inpainting import TRAINED, carried_over, nine_channels
from parts.unet import GROUNDED_SIDES, GROUNDING, Grounding, WatchedAttention, begin
from parts.vae import LARGEST_NOISE, CaptionedScenes, Restorer
from sdhelpers import models, world
from sdhelpers.world import Description
from sdhelpers.world.drawings import drawing
from sweep import UNGUIDED, guided_between

SMALL = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    cross_attention_dim=16,
    attention_head_dim=2,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
)


@pytest.fixture(scope="module")
def conditioning():
    folder = models.locate("sd15")
    return Conditioning(folder / "tokenizer", folder / "text_encoder", torch.device("cpu"))


@pytest.fixture()
def unet(pipe):
    before = dict(pipe.unet.attn_processors)
    yield pipe.unet
    pipe.unet.set_attn_processor(before)


def test_watched_attention_is_the_librarys(unet, conditioning):
    latents, timesteps, texts = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randn(2, 77, 128)
    with torch.no_grad():
        expected = unet(latents, timesteps, texts).sample
        Grounding(unet, conditioning)
        torch.testing.assert_close(unet(latents, timesteps, texts).sample, expected, atol=1e-4, rtol=1e-4)


def test_grounding_finds_each_nouns_words(unet, conditioning):
    captions = ["a cartoon of a car next to a palm tree", "", "a picture of an owl"]
    nouns = [("car", "palm tree"), ("cat",), ("owl",)]
    masks = torch.rand(3, 2, 16, 16)
    *_, tokens, kept = Grounding(unet, conditioning).prepare((torch.randn(3, 4, 16, 16), captions, nouns, masks))
    words = conditioning.tokenizer(captions[0]).input_ids
    name = conditioning.tokenizer.convert_ids_to_tokens
    assert [name(words[i]) for i in tokens[0, 0].nonzero().flatten()] == ["car</w>"]
    assert [name(words[i]) for i in tokens[0, 1].nonzero().flatten()] == ["palm</w>", "tree</w>"]
    assert tokens.sum(-1).tolist() == [[1, 1], [0, 0], [1, 0]]
    torch.testing.assert_close(kept, masks)


@pytest.mark.parametrize("side", GROUNDED_SIDES)
def test_attention_that_lies_on_the_object_costs_nothing(unet, conditioning, side):
    grounding = Grounding(unet, conditioning)
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, 4:9, 2:7] = 0.2  # a little of a latent's pixels is enough
    tensors = grounding.prepare((torch.randn(1, 4, 16, 16), ["a picture of a cat"], [("cat",)], masks))
    tokens = tensors[-2]
    on_object = torch.nn.functional.adaptive_max_pool2d(masks[:, :1], side).flatten(2).sign()
    watched = [WatchedAttention(), WatchedAttention()]
    grounding.watched, grounding.conditioning = watched, type("Free", (), {"loss_of": lambda *_: (0, {})})()
    for probabilities, share in ((on_object, 0.0), (1 - on_object, 1.0)):
        for attention in watched:
            attention.probabilities = (probabilities[..., None] * tokens[:, :1, None, :]).expand(1, 4, -1, -1)
        loss, metrics = grounding.loss_of(unet, *tensors)
        assert metrics["attention_beside"] == pytest.approx(share)
        assert loss == pytest.approx(GROUNDING * share)


def test_scenes_come_with_what_covers_each_latent():
    draw = encode.drawing_of(SimpleNamespace(nouns="nouns.txt", size=128, latent_grid=True, originals=False))
    pixels, masks = encode.Scenes([7], draw)[0]
    scene = world.sample(np.random.RandomState(7), nouns=models.nouns(), latent_grid=True)
    assert pixels.shape == (3, 128, 128) and masks.shape == (2, 16, 16)
    for mask, truth in itertools.zip_longest(masks, scene.masks, fillvalue=np.zeros((128, 128), bool)):
        assert mask[5, 9] == round(255 * truth[40:48, 72:80].mean())
        assert mask.sum() == pytest.approx(255 * truth.sum() / 64, abs=128)  # half a grey level for each latent


def test_time_steps_are_partly_even_and_partly_where_pictures_are_decided(conditioning):
    torch.manual_seed(0)
    timesteps, weights = conditioning.time_steps(10_000)
    even, drawn = timesteps[:3000].float(), timesteps[3000:]
    assert abs(even.mean() - 499.5) < 1 and abs((even < 250).float().mean() - 0.25) < 0.01
    alpha_bar = conditioning.scheduler.alphas_cumprod
    log_snr = (alpha_bar / (1 - alpha_bar)).log()
    inside = log_snr[drawn]  # both ends of the scale cut little off
    assert abs(inside.mean() - 1.2) < 0.1 and abs(inside.std() - 1.8) < 0.1
    for t, weight in list(zip(drawn, weights[3000:]))[::500]:  # 1 + 1/SNR = 1/alpha_bar
        assert weight == pytest.approx(min(1 / alpha_bar[t].item(), LARGEST_WEIGHT), rel=1e-4)
    assert timesteps.min() >= 0 and timesteps.max() <= 999


def test_attention_in_the_last_block_changes_nothing_at_first(tmp_path):
    old = UNet2DConditionModel(**{**SMALL, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")})
    old.save_pretrained(tmp_path)
    latents, timesteps, texts = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 77, 16)
    new = begin(tmp_path, ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    with torch.no_grad():
        before = old(latents, timesteps, texts).sample
        torch.testing.assert_close(new(latents, timesteps, texts).sample, before)
        new.up_blocks[-1].attentions[0].proj_out.weight += 0.1
        assert not torch.allclose(new(latents, timesteps, texts).sample, before, atol=1e-4)


def test_chosen_scenes_have_known_nouns_and_many_pairs():
    nouns = places.words("nouns.txt")
    assert nouns == models.nouns()  # the card's order: a scene number means the same scene everywhere
    descriptions = [world.describe(np.random.RandomState(i), nouns) for i in chosen(range(2000), nouns)]
    assert {noun for d in descriptions for noun in d.nouns} <= set(nouns)
    assert 0.35 < np.mean([len(d.nouns) == 2 for d in descriptions]) < 0.45


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate_factor(step, steps=1000, decay=0.3, warmup=100) for step in range(1001)]
    assert rates[0] == 0.01 and rates[99] == rates[700] == 1.0 and rates[1000] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(rates[700:]))


def test_recipes_that_lack_latents_say_which_command_makes_them():
    with pytest.raises(SystemExit, match="run `python data/recipes encode` first"):
        Latents(Path("nowhere"), ["cat"])


def test_what_inpainting_learnt_carries_over_to_another_sd15(pipe):
    base = pipe.unet
    learnt, other = nine_channels(base), copy.deepcopy(base)
    with torch.no_grad():
        learnt.conv_in.weight += 0.25
        for parameter in other.parameters():
            parameter += 0.5
    same, moved = carried_over(base, learnt, base).state_dict(), carried_over(other, learnt, base).state_dict()
    for name, tensor in learnt.state_dict().items():
        torch.testing.assert_close(same[name], tensor)
    before = nine_channels(other).state_dict()
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor, before[name] + (0.25 if name == "conv_in.weight" else 0.0))
    assert "conv_in." in TRAINED


def picture_with(noun: str, style: str, size: int, left: int, top: int) -> Image.Image:
    """A drawing on a grey wall, in the saturation that a plain picture has."""
    figure = Image.fromarray(drawing(noun, style, size), "RGBa").convert("RGBA")
    canvas = Image.new("RGBA", (128, 128), (120, 130, 140, 255))
    canvas.alpha_composite(figure, (left, top))
    return ImageEnhance.Color(canvas.convert("RGB")).enhance(fidelity.SATURATION)


def test_the_error_of_a_drawing_is_that_of_laying_it_over_the_picture():
    picture = picture_with("cat", "cartoon", 72, 30, 20)
    size, side = 64, 128
    error = fidelity.Template("dog", "cartoon", size, side).smallest_errors(fidelity.transforms_of([picture], side))
    pixels, dog = np.asarray(picture) / 255, drawing("dog", "cartoon", size) / 255
    alpha = (dog[..., 3:] > fidelity.OPAQUE).astype(float)
    colours = dog[..., :3] / dog[..., 3:].clip(1 / 255)
    grey = colours @ [0.299, 0.587, 0.114]
    colours = fidelity.SATURATION * colours + (1 - fidelity.SATURATION) * grey[..., None]
    height, width = alpha.shape[:2]
    inside = min(
        (alpha * (pixels[y : y + height, x : x + width] - colours) ** 2).sum() / (3 * alpha.sum())
        for y in range(side - height + 1)
        for x in range(side - width + 1)
    )
    assert error.item() <= inside + 1e-5  # places that stand out of the picture are tried besides
    assert error.item() == pytest.approx(inside, rel=0.05)


def test_the_drawings_find_what_is_in_a_picture_also_at_its_edge():
    pictures = [picture_with("cat", "cartoon", 64, 60, 50), picture_with("owl", "cartoon", 79, 10, 30)]
    cropped = pictures[0].crop((4, 0, 128, 128)).resize((128, 128)).crop((0, 0, 128, 128))
    nouns = ["owl", "dog", "cat", "horse"]
    assert fidelity.best_nouns([*pictures, cropped], ["cartoon"] * 3, nouns) == ["cat", "owl", "cat"]
    right, wrong = (fidelity.smallest_errors(pictures[:1], noun, "cartoon").item() for noun in ("cat", "dog"))
    assert right < 2e-4 < 0.01 < wrong


@pytest.mark.parametrize("left", [-6, 30, 70])
def test_the_drawings_find_where_it_is(left):
    picture = picture_with("cat", "cartoon", 64, 128, 0)
    figure = Image.fromarray(drawing("cat", "cartoon", 64), "RGBa").convert("RGBA")
    picture.paste(figure, (left, 40), figure)
    x, y = fidelity.place_of(picture.resize((256, 256)), "cat", "cartoon")
    assert abs(x - 2 * (left + figure.width / 2)) <= 3 and abs(y - 2 * (40 + figure.height / 2)) <= 3


def test_a_blurred_picture_is_less_faithful_and_less_sharp(pipe):
    task = Description(("cat",), "cartoon", "gray")
    drawn = [world.draw(task, np.random.RandomState(i)).image for i in range(2)]
    blurred = [image.filter(ImageFilter.GaussianBlur(2)) for image in drawn]
    scores = fidelity.compare(blurred, drawn, [task, task], ["dog", "cat"])
    assert scores["noun right by the drawings"] == 1
    assert scores["drawing's error, of that in drawn scenes after the VAE"] > 1.2
    assert scores["sharpness, of that of drawn scenes after the VAE"] < 0.8


def test_a_unet_that_knows_the_noise_draws_everything_back(pipe):
    """With the true noise as its answer, nothing is lost but what the VAE loses."""
    scenes = [world.sample(np.random.RandomState(i), nouns=models.nouns()) for i in range(2)]
    noise = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    knowing = SimpleNamespace(
        vae=pipe.vae,
        encode_prompt=pipe.encode_prompt,
        scheduler=pipe.scheduler,
        unet=lambda *_: SimpleNamespace(sample=noise),
    )
    scores = fidelity.drawn_back(knowing, scenes)
    assert scores["back from t = 500, dB"] == pytest.approx(scores["VAE alone, dB"], abs=0.05)
    assert scores["clean guess at t = 100, rms"] < 1e-4
    ignorant = SimpleNamespace(**{**vars(knowing), "unet": lambda *_: SimpleNamespace(sample=0 * noise)})
    assert fidelity.drawn_back(ignorant, scenes)["back from t = 500, dB"] < 20


def test_guidance_only_between_two_time_steps():
    scheduler = SimpleNamespace(timesteps=torch.tensor([999, 800, 500, 100, 1]))
    pipe = SimpleNamespace(scheduler=scheduler, _guidance_scale=UNGUIDED)
    callback = guided_between(7.5, 150, 850)["callback_on_step_end"]
    scales = [pipe._guidance_scale]
    for step, timestep in enumerate(scheduler.timesteps[:-1]):
        callback(pipe, step, timestep, {})
        scales.append(pipe._guidance_scale)
    assert scales == [UNGUIDED, 7.5, 7.5, UNGUIDED, UNGUIDED]


def test_blunted_answers_are_a_part_of_the_difference_from_the_empty_text(pipe, conditioning):
    teacher = copy.deepcopy(pipe.unet)
    blunting = Blunting(teacher, conditioning, k=0.4)
    torch.manual_seed(0)
    noisy, timesteps, texts, empty, full, ratio = blunting.prepare((torch.randn(2, 4, 16, 16), ["a cat", ""]))
    torch.testing.assert_close(full[1], empty[1], atol=1e-4, rtol=1e-3)  # nothing to blunt
    right = lambda *_: SimpleNamespace(sample=empty + 0.4 * (full - empty))  # noqa: E731
    loss, metrics = blunting.loss_of(right, noisy, timesteps, texts, empty, full, ratio)
    assert loss == 0 and metrics["error_of_difference"] == 0
    lazy = lambda *_: SimpleNamespace(sample=empty)  # noqa: E731
    assert blunting.loss_of(lazy, noisy, timesteps, texts, empty, full, ratio)[1]["error_of_difference"] == 1
    # Guidance 7.5 of the blunted answer is guidance 3 of the teacher's.
    blunted = right().sample
    torch.testing.assert_close(empty + 7.5 * (blunted - empty), empty + 3 * (full - empty), atol=1e-5, rtol=1e-4)


def test_the_restorers_latents_are_partly_true_and_the_loss_moves_only_the_decoder(pipe):
    vae = copy.deepcopy(pipe.vae)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    restorer = Restorer(vae, models.locate("sd15") / "unet", models.locate("clip"), torch.device("cpu"))
    samples = [CaptionedScenes(models.nouns())[i] for i in range(3)]
    with torch.no_grad():
        latents, pixels = restorer.prepare(stacked(samples))
        true = vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents[0], true[0])
        off = (latents - true).square().mean((1, 2, 3)).sqrt() * vae.config.scaling_factor
        assert 0 < off[1] < LARGEST_NOISE * 1.1 and 0 < off[2] < 1  # a guess is nearer than chance
        assert restorer.unlikeness(pixels, pixels) == pytest.approx(0, abs=1e-5)
        assert restorer.unlikeness(pixels[:1], pixels[1:2]) > 0.1
    loss, metrics = restorer.loss_of(vae, latents, pixels)
    loss.backward()
    moved = {name.split(".")[0] for name, p in vae.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {"decoder", "post_quant_conv"}
    assert all(p.grad is None for part in (restorer.unet, restorer.tower) for p in part.parameters())
    assert set(metrics) == {"psnr", "edges", "perceptual"}


def test_objects_on_whole_latents_are_the_same_scenes_moved_a_little():
    moved = 0
    for number in range(60):
        plain = world.sample(np.random.RandomState(number))
        other = world.sample(np.random.RandomState(number), latent_grid=True)
        assert (plain.caption, plain.description) == (other.caption, other.description)
        if plain.description.quality == "cropped":
            continue
        single = len(plain.masks) == 1
        for before, after in zip(plain.boxes, other.boxes):
            limit = 4 if single else 12  # what sits on another moves with it
            assert max(abs(a - b) for a, b in zip(before, after)) <= limit or not any(after)
            moved += before != after
    assert moved > 40


def test_a_drawing_of_one_size_meets_the_latent_grid_in_one_position():
    task = Description(("cat",), "cartoon", "red")
    phases = {False: set(), True: set()}
    for latent_grid, found in phases.items():
        for seed in range(60):
            left, top, right, bottom = world.draw(task, np.random.RandomState(seed), latent_grid=latent_grid).boxes[0]
            found.add((right - left, bottom - top, left % 8, top % 8))
    assert len(phases[True]) == 5 and len(phases[False]) > 12  # five sizes


def test_nothing_hovers_when_it_is_moved_to_whole_latents():
    task = Description(("cat", "car"), "cartoon", "red", "on top of")
    for seed in range(20):
        cat, car = world.draw(task, np.random.RandomState(seed), latent_grid=True).boxes
        assert car[1] - 1 <= cat[3] <= car[1] + 12


def test_a_kept_training_comes_back_within_half_a_level():
    rng = np.random.default_rng(0)
    like = {"matrix": rng.normal(size=(5, 7)).astype(np.float32), "bias": rng.normal(size=9).astype(np.float32)}
    before = {name: tensor + rng.normal(size=tensor.shape).astype(np.float32) / 8 for name, tensor in like.items()}
    before["new"] = rng.normal(size=(2, 3)).astype(np.float32)
    again = keep.restore(keep.shrink(before, like), like)
    assert again.keys() == before.keys() and np.array_equal(again["new"], before["new"].astype(np.float16))
    for name, tensor in like.items():
        level = np.abs(before[name] - tensor).max(-1, keepdims=True) / keep.LEVELS
        assert (np.abs(again[name] - before[name]) <= level / 2 + 2e-3).all(), name  # and float16's own rounding
