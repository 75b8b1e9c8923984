"""Long, weighted and scheduled prompts against the plain encoder and Compel, for one text encoder and for two."""

import copy

import pytest
import torch
from compel import Compel
from compel.embeddings_provider import SplitLongTextMode
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdhelpers.device import seeded_generator
from sdhelpers.measures.pixels import difference
from sdhelpers.prompts import PromptError, ScheduledPrompt, apply_weights, encode, read_prompt, to_chunks
from sdhelpers.schedulers import build_scheduler

PROMPT = "a cartoon of a cat on a beach"
FILLER = "best quality, detailed, " * 20  # 100 tokens


@pytest.fixture
def own(pipe):
    """A copy of the pipeline whose parts a test may change."""
    return copy.deepcopy(pipe)


@pytest.fixture(scope="module")
def xl(pipe):
    """SDXL's classes with small random text encoders of two widths: shapes and equality need no training."""
    torch.manual_seed(0)

    def config(width: int, projection: int) -> CLIPTextConfig:
        size = dict(hidden_size=width, intermediate_size=64, num_attention_heads=4, num_hidden_layers=3)
        return CLIPTextConfig(**size, projection_dim=projection, eos_token_id=49407, bos_token_id=49406)

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
        cross_attention_dim=32 + 40,
    )
    tokenizer_2 = copy.deepcopy(pipe.tokenizer)
    tokenizer_2.pad_token = "!"  # SDXL's second tokenizer pads otherwise than the first
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), norm_num_groups=8),
        text_encoder=CLIPTextModel(config(32, 32)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config(40, 24)).eval(),
        tokenizer=pipe.tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet.eval(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipe, **arguments):
    settings = dict(num_inference_steps=2, generator=seeded_generator(7))
    return pipe(**settings | arguments).images[0]


@torch.no_grad()
def plain(pipe, prompt: str, negative_prompt: str | None = None, clip_skip: int | None = None) -> tuple:
    return pipe.encode_prompt(
        prompt,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative_prompt,
        clip_skip=clip_skip,
    )


# One chunk.


@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
@pytest.mark.parametrize("negative", [None, "", "blurry, low quality"])
@pytest.mark.parametrize("prompt", [PROMPT, "", "  two   spaces, 10:30 | x  ", "word " * 75, "Ünïcödé 🐱"])
def test_long_prompt_of_one_chunk_equals_the_plain_encoder(pipe, prompt, negative, clip_skip):
    ours = encode(pipe, prompt, negative, clip_skip)
    positive, negative = plain(pipe, prompt, negative, clip_skip)
    assert torch.equal(ours["prompt_embeds"], positive)
    assert torch.equal(ours["negative_prompt_embeds"], negative)


@pytest.mark.parametrize("clip_skip", [None, 1])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", [None, "", "blurry"])
def test_one_chunk_equals_the_plain_encoders_of_sdxl(xl, negative, zeros, clip_skip):
    xl.register_to_config(force_zeros_for_empty_prompt=zeros)
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    ours = encode(xl, PROMPT, negative, clip_skip)
    assert ours["prompt_embeds"].shape == (1, 77, 32 + 40) and ours["pooled_prompt_embeds"].shape == (1, 24)
    for name, expected in zip(names, plain(xl, PROMPT, negative, clip_skip)):
        assert torch.equal(ours[name], expected), name


@pytest.mark.parametrize(
    "weighted", [f"({PROMPT}:1)", "((a cartoon:1) of a cat on (a beach:1.0):1)", f"[({PROMPT}:1.1)]"]
)
def test_weight_1_everywhere_equals_the_plain_encoder(pipe, weighted):
    assert torch.equal(encode(pipe, weighted)["prompt_embeds"], plain(pipe, PROMPT)[0])


def test_a_picture_from_the_embeddings_equals_the_pipelines_own(pipe):
    ours = draw(pipe, **encode(pipe, PROMPT, "blurry"))
    assert difference(ours, draw(pipe, prompt=PROMPT, negative_prompt="blurry")) == 0


# Several chunks.


def test_each_chunk_is_what_the_encoder_makes_of_it_alone(pipe):
    ids = pipe.tokenizer(FILLER, add_special_tokens=False, verbose=False).input_ids
    assert len(ids) == 100
    first, second = pipe.tokenizer.decode(ids[:75]), pipe.tokenizer.decode(ids[75:])
    long = encode(pipe, FILLER)["prompt_embeds"]
    assert long.shape == (1, 154, 128)
    torch.testing.assert_close(long, torch.cat([plain(pipe, first)[0], plain(pipe, second)[0]], dim=1))


@pytest.mark.parametrize("tokens", [1, 75, 76, 150, 151, 400])
def test_chunks_are_filled_before_the_next_begins(pipe, tokens):
    chunks = to_chunks(pipe.tokenizer, read_prompt("cat " * tokens))
    assert len(chunks) == -(-tokens // 75)
    assert [c.length for c in chunks[:-1]] == [75] * (len(chunks) - 1)
    assert sum(c.length for c in chunks) == tokens
    assert all(len(c.ids) == len(c.weights) == 77 and c.ids[0] == 49406 and 49407 in c.ids for c in chunks)


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("a BREAK b", [1, 1]),
        ("a b BREAK", [2]),
        ("BREAK a", [0, 1]),
        ("a BREAK BREAK b", [1, 0, 1]),
        ("BREAK", [0]),
        ("", [0]),
        ("cat " * 75 + "BREAK dog", [75, 1]),
        ("cat " * 76 + "BREAK dog", [75, 1, 1]),
    ],
)
def test_break_fills_the_chunk(pipe, prompt, lengths):
    assert [chunk.length for chunk in to_chunks(pipe.tokenizer, read_prompt(prompt))] == lengths


@pytest.mark.parametrize("words", [(1, 1), (100, 1), (1, 100), (100, 200)])
def test_prompt_and_negative_prompt_get_one_length_and_lose_nothing(pipe, xl, words):
    for pipeline in (pipe, xl):
        ours = encode(pipeline, "cat " * words[0], "dog " * words[1])
        length = 77 * -(-max(words) // 75)
        assert ours["prompt_embeds"].shape[1] == ours["negative_prompt_embeds"].shape[1] == length
        shorter = encode(pipeline, "cat " * words[0])["prompt_embeds"]
        torch.testing.assert_close(ours["prompt_embeds"][:, : shorter.shape[1]], shorter)


def test_unweighted_chunks_equal_compels(pipe):
    compel = Compel(
        pipe.tokenizer,
        pipe.text_encoder,
        truncate_long_prompts=False,
        split_long_text_mode=SplitLongTextMode.BRUTAL,
    )
    with torch.no_grad():
        torch.testing.assert_close(encode(pipe, FILLER)["prompt_embeds"], compel(FILLER))


def test_a_word_past_token_77_counts_only_on_the_long_path(pipe):
    without, with_tail = FILLER, FILLER + "monochrome"
    assert difference(draw(pipe, prompt=without), draw(pipe, prompt=with_tail)) == 0
    assert difference(draw(pipe, **encode(pipe, without)), draw(pipe, **encode(pipe, with_tail))) > 0


def test_long_prompts_of_sdxl_pool_the_first_chunk(xl):
    first = xl.tokenizer.decode(xl.tokenizer(FILLER, add_special_tokens=False, verbose=False).input_ids[:75])
    torch.testing.assert_close(encode(xl, FILLER)["pooled_prompt_embeds"], plain(xl, first)[2])
    assert draw(xl, **encode(xl, FILLER, "blurry"), height=16, width=16).size == (16, 16)


# Weights.


def test_weights_multiply_the_words_and_the_mean_is_restored(pipe):
    vectors = plain(pipe, PROMPT)[0]
    weights = torch.ones(1, 77)
    weights[0, 5] = 1.5  # start, a, cartoon, of, a, cat
    by_hand = vectors * weights[..., None]
    by_hand = by_hand * vectors.mean() / by_hand.mean()
    ours = encode(pipe, "a cartoon of a (cat:1.5) on a beach")["prompt_embeds"]
    torch.testing.assert_close(ours, by_hand)
    torch.testing.assert_close(ours.mean(), vectors.mean())


def test_each_chunk_keeps_its_own_mean(pipe):
    plainly, weighted = encode(pipe, FILLER)["prompt_embeds"], encode(pipe, f"({FILLER}:1.7)")["prompt_embeds"]
    for chunk in (slice(0, 77), slice(77, 154)):
        torch.testing.assert_close(weighted[:, chunk].mean(), plainly[:, chunk].mean())


@pytest.mark.parametrize("weight", [0, -1, -0.3, 1e-9, 30])
def test_odd_weights_give_finite_numbers(pipe, weight):
    vectors = encode(pipe, f"(a cartoon of a cat:{weight:f}) on a beach")["prompt_embeds"]
    assert vectors.isfinite().all() and vectors.abs().max() < 1e4


def test_a_mean_of_zero_is_left_alone():
    embeddings, weights = torch.tensor([[[1.0], [1.0]]]), torch.tensor([[1.0, -1.0]])
    assert torch.equal(apply_weights(embeddings, weights), torch.tensor([[[1.0], [-1.0]]]))


def test_half_precision_stays_half(own):
    own.to(torch.float16)
    vectors = encode(own, "a (cat:1.3)")["prompt_embeds"]
    assert vectors.dtype == torch.float16 and vectors.isfinite().all()


# The library's other features.


def test_image_to_image_takes_the_embeddings(pipe):
    img2img = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    image = draw(pipe, prompt=PROMPT)
    settings = dict(image=image, strength=0.6, num_inference_steps=5)
    assert (
        difference(draw(img2img, **encode(img2img, PROMPT), **settings), draw(img2img, prompt=PROMPT, **settings)) == 0
    )
    assert draw(img2img, **encode(img2img, FILLER), **settings).size == image.size


def test_a_lora_in_unet_and_text_encoder_is_heard(own):
    torch.manual_seed(0)
    before = draw(own, **encode(own, PROMPT))
    config = dict(r=2, init_lora_weights=False)
    own.unet.add_adapter(LoraConfig(**config, target_modules=["to_q", "to_v"]), adapter_name="style")
    own.text_encoder.add_adapter(LoraConfig(**config, target_modules=["q_proj", "v_proj"]), adapter_name="style")
    after = draw(own, **encode(own, PROMPT))
    assert difference(before, after) > 0
    assert difference(after, draw(own, prompt=PROMPT)) == 0


def test_a_learnt_word_of_two_vectors_is_two_tokens(own):
    own.load_textual_inversion({"<toy>": torch.randn(2, 128)}, token="<toy>")
    assert torch.equal(encode(own, "a <toy> cat")["prompt_embeds"], plain(own, "a <toy> cat")[0])


def test_other_text_encoders_are_refused_in_one_sentence(own):
    own.text_encoder = torch.nn.Linear(1, 1)
    with pytest.raises(PromptError, match="does not listen to CLIP alone"):
        encode(own, PROMPT)


def test_a_prompt_that_changes_is_sent_to_the_schedule(pipe):
    with pytest.raises(PromptError, match="scheduled prompt"):
        encode(pipe, "a [cat|dog]")


# Scheduled prompts: what the UNet is really given.


def heard(pipe, **arguments) -> list[torch.Tensor]:
    """The text vectors at each call of the UNet: [batch, tokens, width]."""
    given = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"].clone()), with_kwargs=True
    )
    try:
        draw(pipe, **arguments)
    finally:
        hook.remove()
    return given


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
@pytest.mark.parametrize("pictures", [1, 3])
def test_the_unet_hears_at_each_step_what_the_schedule_says(pipe, guidance_scale, pictures):
    scheduled = ScheduledPrompt(pipe, "a [cat:dog:0.5] on a [beach|(meadow:1.2)]", 4, "[blurry::1]")
    given = heard(
        pipe,
        **scheduled.first,
        callback_on_step_end=scheduled,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        num_images_per_prompt=pictures,
    )
    said = ["a cat on a beach", "a cat on a (meadow:1.2)", "a dog on a beach", "a dog on a (meadow:1.2)"]
    for vectors, prompt, negative in zip(given, said, ["blurry", "", "", ""], strict=True):
        expected = encode(pipe, prompt, negative)
        rows = [expected["prompt_embeds"]] * pictures
        if guidance_scale > 1:
            rows = [expected["negative_prompt_embeds"]] * pictures + rows
        assert torch.equal(vectors, torch.cat(rows))


def test_a_schedule_whose_steps_differ_in_length_is_padded(pipe):
    scheduled = ScheduledPrompt(pipe, f"a cat[, {FILLER}:2]", 4)
    given = heard(pipe, **scheduled.first, callback_on_step_end=scheduled, num_inference_steps=4)
    assert [vectors.shape[1] for vectors in given] == [154] * 4
    assert torch.equal(given[0][1:, :77], encode(pipe, "a cat")["prompt_embeds"])


@pytest.mark.parametrize("name", ["DPM++ 2M", "Euler a", "Heun", "PNDM"])
def test_every_sampler_is_followed_through_its_own_calls(own, name):
    own.scheduler = build_scheduler(name, own.scheduler.config)
    scheduled = ScheduledPrompt(own, "a [cat:dog:2]", 4)
    given = heard(own, **scheduled.first, callback_on_step_end=scheduled, num_inference_steps=4)
    cat, dog = encode(own, "a cat")["prompt_embeds"], encode(own, "a dog")["prompt_embeds"]
    calls = ["cat" if torch.equal(v[1:], cat) else "dog" if torch.equal(v[1:], dog) else "?" for v in given]
    cats = 4 if name == "Heun" else 2  # Heun asks twice a step
    assert calls == ["cat"] * cats + ["dog"] * (len(given) - cats)


def test_image_to_image_has_fewer_steps(pipe):
    img2img = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    image = draw(pipe, prompt=PROMPT)
    scheduled = ScheduledPrompt(img2img, "a [cat:dog:0.5]", 10, strength=0.4)
    assert scheduled.steps == 4
    settings = dict(image=image, strength=0.4, num_inference_steps=10, callback_on_step_end=scheduled)
    given = heard(img2img, **scheduled.first, **settings)
    dog = encode(pipe, "a dog")["prompt_embeds"]
    assert [torch.equal(vectors[1:], dog) for vectors in given] == [False, False, True, True]


def test_sdxl_gets_the_pooled_vector_of_each_step_too(xl):
    scheduled = ScheduledPrompt(xl, "a [cat:dog:1]", 2, "blurry")
    pooled = []
    hook = xl.unet.register_forward_pre_hook(
        lambda module, args, kwargs: pooled.append(kwargs["added_cond_kwargs"]["text_embeds"].clone()),
        with_kwargs=True,
    )
    given = heard(xl, **scheduled.first, callback_on_step_end=scheduled, height=16, width=16)
    hook.remove()
    for vectors, pool, prompt in zip(given, pooled, ["a cat", "a dog"], strict=True):
        expected = encode(xl, prompt, "blurry")
        assert torch.equal(vectors, torch.cat([expected["negative_prompt_embeds"], expected["prompt_embeds"]]))
        assert torch.equal(
            pool, torch.cat([expected["negative_pooled_prompt_embeds"], expected["pooled_prompt_embeds"]])
        )


def test_another_number_of_steps_is_refused(pipe):
    scheduled = ScheduledPrompt(pipe, "a [cat:dog:0.5]", 2)
    with pytest.raises(PromptError, match=r"made for \d+ calls of the UNet, but the pipeline makes \d+"):
        draw(pipe, **scheduled.first, callback_on_step_end=scheduled, num_inference_steps=5)


def test_it_goes_with_other_callbacks(pipe):
    counted = []

    class Count(PipelineCallback):
        tensor_inputs = ("latents",)

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            counted.append(step_index)
            return callback_kwargs

    scheduled = ScheduledPrompt(pipe, "a [cat:dog:1]", 3)
    alone = draw(pipe, **scheduled.first, callback_on_step_end=scheduled, num_inference_steps=3)
    both = MultiPipelineCallbacks([scheduled, Count()])
    assert difference(alone, draw(pipe, **scheduled.first, callback_on_step_end=both, num_inference_steps=3)) == 0
    assert counted == list(range(pipe.num_timesteps))
