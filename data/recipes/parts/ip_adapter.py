"""The IP-Adapters of sd15: a reference picture as four more tokens, which attention of their own reads.

Ye et al., IP-Adapter: Text Compatible Image Prompt Adapter (2023, arXiv:2308.06721), with the library's own classes:
beside every cross-attention's keys and values for the words stand a second pair for the picture, begun as copies of
the first. The picture's embedding becomes tokens by a linear map, begun as the one that comes nearest to the vectors of
the words for what is seen (`fitted` scenes; 0: by chance, as the published one). Everything else is frozen.

What the reference shares with what is to be drawn is what the adapter learns to carry: here noun and style, in another
place and size, so that nothing else of it can help. (ip_adapter_style and ip_adapter_object share one of the two
alone.) The files have the published layout, for `load_ip_adapter`.

Recorded beside the loss, which hardly shows whether the picture is heard: how often the judge finds the reference's
noun and style in pictures drawn without any words (`probe_every`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

import places
from artist import BATCH, GUIDANCE, STEPS, heads_right, held_out_tasks
from card import share
from conditioning import Conditioning
from latents import Latents
from loop import Training
from probes import film, keep_strip
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import seeded_generator
from sdhelpers.images import to_tensor
from sdhelpers.measures.judge import Classifier
from sdhelpers.world.captions import COLOURS, PLACE_WORDS, PLACES, STYLES, Description, pick
from sdhelpers.world.questions import with_article

BASE = models.POCKET / "sd15"
TOKENS = 4  # that a picture becomes, as in the published adapter
NO_PICTURE = 0.1  # part of the samples without a reference, which the empty half of guidance needs
FOLDER = "models"  # where in the model's folder the published layout has its files
PROBED, PROBE_STEPS = 32, 8  # pictures drawn for a probe, in so many steps


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a reference has in common with what is to be drawn, and what the words say besides."""

    name: str  # of the file: ip-adapter, and what is added to it
    shared: tuple[str, ...]  # of "noun" and "style"
    words: Callable[[Description, str, np.random.RandomState], str]  # of the target's description and caption
    asked: Callable[[Description, np.random.RandomState], str]  # the words with which it is scored

    @property
    def file(self) -> Path:
        return Path(FOLDER) / f"{self.name}_sd15.safetensors"

    def recipe(self) -> Recipe:
        return Recipe(
            lambda options: build(options, self),
            lambda options: ReferencedLatents(places.RUNS / options.latents, models.nouns(), self),
            lambda training: Referenced(training, self),
            lambda unet, options: score(unet, self, options.images),
            lambda unet, folder, options: export(unet, folder, self),
        )

    def scene(self, description: Description, rng: np.random.RandomState) -> world.Scene:
        """Another scene that shares this much, and its place never."""
        noun, style = description.nouns[0], description.style
        if "noun" not in self.shared:
            noun = pick(rng, [n for n in models.nouns() if n != noun])
        if "style" not in self.shared:
            style = pick(rng, [s for s in STYLES if s != style])
        place = pick(rng, [p for p in (*PLACES, *COLOURS) if p != description.place])
        return world.draw(Description((noun,), style, place), rng)


def where(place: str, rng: np.random.RandomState) -> str:
    """The words for a place or for a plain background."""
    return pick(rng, PLACE_WORDS[place]) if place in PLACE_WORDS else f"on {with_article(place)} background"


def words_or_place(description: Description, caption: str, rng: np.random.RandomState) -> str:
    """Nothing, the place alone, or the whole caption."""
    chance = rng.random_sample()
    return "" if chance < 0.4 else where(description.place, rng) if chance < 0.7 else caption


def image_tower() -> CLIPVisionModelWithProjection:
    """Pocket CLIP's image half. (Its configuration says how wide the common space is, that of its half does not.)"""
    config = CLIPConfig.from_pretrained(models.POCKET / "clip")
    config.vision_config.projection_dim = config.projection_dim
    folder = models.POCKET / "clip"
    return CLIPVisionModelWithProjection.from_pretrained(folder, config=config.vision_config, dtype=torch.float32)


class ReferencedLatents(Latents):
    """Scenes of one object: latents, words, the reference [3, 128, 128] from -1 to 1, and 1, or 0 to leave it out."""

    def __init__(self, folder: Path, nouns: Sequence[str], reference: Reference):
        super().__init__(folder, nouns)
        self.reference = reference
        good = [d.quality in ("plain", "best") and len(d.nouns) == 1 for d in self.descriptions]
        self.latents = self.latents[np.array(good)]
        self.descriptions = [d for d, kept in zip(self.descriptions, good) if kept]

    def __getitem__(self, number: int):
        latents, caption = super().__getitem__(number)
        description = self.descriptions[self.index(number)]
        rng = np.random.RandomState((3_000_017 * number + 41) % 2**32)
        words = self.reference.words(description, caption, rng)
        reference = to_tensor(self.reference.scene(description, rng).image)
        return latents, words, reference, torch.tensor(float(rng.random_sample() >= NO_PICTURE))


class Referenced(Conditioning):
    """As for sd15, and the reference as the image tower's embedding, or zeros in its place.

    All time steps are spread evenly: what a picture shows is settled where the noise is strong, and sd15's own training
    looks there too rarely for it.
    """

    even = 1.0

    def __init__(self, training: Training, reference: Reference):
        super().__init__(BASE / "tokenizer", BASE / "text_encoder", training.device)
        self.tower = image_tower().to(self.device).eval().requires_grad_(False)
        self.reference, self.run, self.judge = reference, training.folder, Classifier()

    def prepare(self, batch):
        latents, words, references, counts = batch
        embeddings = self.tower(references.to(self.device)).image_embeds.float() * counts.to(self.device)[:, None]
        return *super().prepare((latents, words)), embeddings

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights, image_embeddings):
        added = {"image_embeds": [image_embeddings[:, None]]}  # [batch, pictures, width]
        predicted = unet(noisy, timesteps, text_embeddings, added_cond_kwargs=added).sample.float()
        each = (predicted - noise).square().mean((1, 2, 3))
        return (weights * each).mean(), {"plain_mse": each.mean()}

    def probe(self, unet: UNet2DConditionModel, step: int) -> dict[str, float]:
        """Draw from references and the words that the kind is scored with; keep a few, and let the judge name them."""
        tasks, references, words = tasks_of(self.reference, PROBED)
        images = draw(pipeline(unet, self.tower), references, words, PROBE_STEPS)
        keep_strip(self.run, step, images)
        right = heads_right(self.judge(images), tasks)
        return {head: share(right[head]) for head in ("noun", "style")}


def tasks_of(reference: Reference, count: int) -> tuple[list[Description], list[Image.Image], list[str]]:
    """What is to be drawn, never trained on; a reference for each; and the words."""
    tasks, _ = held_out_tasks(count, models.nouns())
    rngs = [np.random.RandomState(FRESH + 600_000 + i) for i in range(count)]
    references = [reference.scene(task, rng).image for task, rng in zip(tasks, rngs)]
    return tasks, references, [reference.asked(task, rng) for task, rng in zip(tasks, rngs)]


class WithReferences(StableDiffusionPipeline):
    """sd15's pipeline whose i-th picture has the i-th reference, `ip_adapter_image_embeds` [2 * pictures, 1, width].

    The library would show all references to every picture of the batch.
    """

    def prepare_ip_adapter_image_embeds(self, ip_adapter_image, ip_adapter_image_embeds, *batch):
        return ip_adapter_image_embeds


def pipeline(unet: UNet2DConditionModel, tower: CLIPVisionModelWithProjection) -> StableDiffusionPipeline:
    """sd15's pipeline around an adapted UNet, on its device."""
    pipe = WithReferences(
        vae=AutoencoderKL.from_pretrained(BASE / "vae", dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_pretrained(BASE / "scheduler"),
        image_encoder=tower,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(unet.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def draw(pipe, references: Sequence[Image.Image], words: Sequence[str], steps: int = STEPS) -> list[Image.Image]:
    """A picture for each reference and its words, seed i for the i-th; an empty half of guidance has no picture."""
    images = []
    for first in range(0, len(references), BATCH):
        pixels = torch.stack([to_tensor(image) for image in references[first : first + BATCH]])
        embeddings = pipe.image_encoder(pixels.to(pipe.device)).image_embeds[:, None]
        images += pipe(
            list(words[first : first + BATCH]),
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeddings), embeddings])],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[seeded_generator(first + i) for i in range(len(pixels))],
        ).images
    return images


def score(unet: UNet2DConditionModel, reference: Reference, count: int) -> dict[str, float]:
    """What the judge finds in pictures from references that nobody has seen, with the adapter's scale 1 and 0.

    The words are the same at both scales: those that the kind is asked with, and the target's place alone.
    """
    pipe, judge = pipeline(unet, image_tower()), Classifier()
    tasks, references, words = tasks_of(reference, count)
    places_alone = [where(task.place, np.random.RandomState(i)) for i, task in enumerate(tasks)]
    scores: dict[str, float] = {"images": count}
    for said, texts in {"asked": words, "place alone said": places_alone}.items():
        for scale in (1.0, 0.0):
            pipe.set_ip_adapter_scale(scale)
            few = slice(0, count if scale and said == "asked" else count // 4)
            right = heads_right(judge(draw(pipe, references[few], texts[few])), tasks[few])
            heads = ("noun", "style") if said == "asked" and not any(words) else ("noun", "style", "place")
            scores |= {f"{said}: {head} right, scale {scale:g}": share(right[head]) for head in heads}
    return scores


def beginning(unet: UNet2DConditionModel, count: int) -> dict[str, dict[str, torch.Tensor]]:
    """The adapter to begin with, in the published layout: the words' own keys and values, and a fitted projection."""
    image_proj = fitted(*examples(count)) if count else unfitted()
    layers = {}
    for i, (_, attention) in enumerate(cross_attentions(unet)):
        layers[f"{2 * i + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        layers[f"{2 * i + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return {"image_proj": image_proj, "ip_adapter": layers}


def unfitted() -> dict[str, torch.Tensor]:
    """A projection that nobody has taught anything, as the published one began."""
    width, inside = CLIPConfig.from_pretrained(models.POCKET / "clip").projection_dim, text_width()
    projection, norm = nn.Linear(width, TOKENS * inside), nn.LayerNorm(inside)
    named = (("proj", projection), ("norm", norm))
    return {f"{name}.{k}": v for name, module in named for k, v in module.state_dict().items()}


def text_width() -> int:
    return CLIPTextConfig.from_pretrained(BASE / "text_encoder").hidden_size


@torch.no_grad()
def examples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image embeddings [count, width] of scenes, and four vectors [count, 4, width] of the words for noun and style.

    The vectors are the text encoder's at the last token of the style and of the noun, at the end, and at the first of
    the empty places behind it, before the encoder's last scaling.
    """
    tower, tokenizer = image_tower().eval(), CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32).eval()
    last = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    embeddings, vectors = [], []
    for first in range(0, count, 50):
        scenes = [one_thing(np.random.RandomState(60_000_000 + n)) for n in range(first, min(count, first + 50))]
        embeddings.append(tower(torch.stack([to_tensor(scene.image) for scene in scenes])).image_embeds)
        for scene in scenes:
            style, noun = with_article(scene.description.style), with_article(scene.description.nouns[0])
            texts = [style, f"{style} of {noun}"]
            ends = [len(tokenizer(text).input_ids) - 2 for text in texts]  # where each one's last word ends
            ids = tokenizer(texts[1], padding="max_length", max_length=77, return_tensors="pt").input_ids
            states = encoder(ids).last_hidden_state[0]
            vectors.append((states[[*ends, ends[1] + 1, ends[1] + 2]] - last.bias) / last.weight)
    return torch.cat(embeddings), torch.stack(vectors)


def one_thing(rng: np.random.RandomState) -> world.Scene:
    """A scene of one object of the nouns that sd15 knows, in some style at some place."""
    return world.draw(Description((pick(rng, models.nouns()),), pick(rng, STYLES), pick(rng, (*PLACES, *COLOURS))), rng)


def fitted(embeddings: torch.Tensor, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """The projection that comes nearest to the words' vectors, by least squares, and the text encoder's last scaling.

    So the adapter begins as a translator from pictures to words that sd15 knows, and learns from there.
    """
    ones = torch.cat([embeddings, torch.ones(len(embeddings), 1)], 1).double()
    solution = torch.linalg.lstsq(ones, vectors.flatten(1).double(), driver="gelsd").solution.float()
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)
    last = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    projection = {"proj.weight": solution[:-1].T.contiguous(), "proj.bias": solution[-1].clone()}
    return projection | {"norm.weight": last.weight.detach().clone(), "norm.bias": last.bias.detach().clone()}


def cross_attentions(unet: UNet2DConditionModel) -> list[tuple[str, nn.Module]]:
    """Names and modules in the order in which the library numbers them."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
    return [(name, unet.get_submodule(name)) for name in names]


def adapted(unet: UNet2DConditionModel, state: dict[str, dict[str, torch.Tensor]]) -> UNet2DConditionModel:
    """The UNet with the adapter in it, of which alone the adapter learns."""
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("_ip." in name or name.startswith("encoder_hid_proj."))
    return unet


def build(options: Options, reference: Reference) -> UNet2DConditionModel:
    """The adapted UNet: an untrained adapter, or the one in options.init, of this kind or of another."""
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    if not options.init:
        return adapted(unet, beginning(unet, options.fitted))
    files = [Path(options.init) / kind.file for kind in (reference, BOTH)]
    return adapted(unet, nested(load_file(next((file for file in files if file.exists()), files[0]))))


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The two dictionaries that a file's names stand for, in float32."""
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        state[half][rest] = tensor.float()
    return state


def state_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors by their published names."""
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    tensors = {f"image_proj.proj.{k}": v for k, v in projection.image_embeds.state_dict().items()}
    tensors |= {f"image_proj.norm.{k}": v for k, v in projection.norm.state_dict().items()}
    for i, (_, attention) in enumerate(cross_attentions(unet)):
        for half in ("k", "v"):
            layer = getattr(attention.processor, f"to_{half}_ip")[0]
            tensors[f"ip_adapter.{2 * i + 1}.to_{half}_ip.weight"] = layer.weight
    return {name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}


def export(unet: UNet2DConditionModel, folder: Path, reference: Reference) -> None:
    """The adapter's file, and the image tower's configuration; its weights are pocket CLIP's."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    film(folder.parent)
    save_file(state_of(unet), folder / reference.file, metadata={"format": "pt"})
    image_tower().config.save_pretrained(folder / FOLDER / "image_encoder")


BOTH = Reference("ip-adapter", ("noun", "style"), words_or_place, lambda task, rng: "")
RECIPE = BOTH.recipe()
