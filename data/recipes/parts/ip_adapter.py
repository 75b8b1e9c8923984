"""The IP-Adapters of sd15: a reference picture as four more tokens, which attention of their own reads.

Ye et al., IP-Adapter: Text Compatible Image Prompt Adapter (2023, arXiv:2308.06721), with the library's own classes, as
the published "plus": a resampler asks all patches of CLIP's image tower with a few queries of its own, and beside every
cross-attention's keys and values for the words stands a second pair for its answers, begun as copies of the first. The
resampler begins with what brings it nearest to the vectors of the words for what is seen, found without the UNet
(`fitted` scenes; 0: by chance, as the published one). Everything else is frozen.

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
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

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
TOKENS, WIDTH, HEADS = 4, 128, 2  # that a picture becomes; the resampler's width, and its heads of 64
FIT_ROUNDS = 20  # how often each of the fitted scenes is seen
NO_PICTURE = 0.1  # part of the samples without a reference, which the empty half of guidance needs
FOLDER = "models"  # where in the model's folder the published layout has its files
PROBED, PROBE_STEPS = 32, 8  # pictures drawn for a probe, in so many steps


Asked = Callable[[Description, np.random.RandomState], str]


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a reference has in common with what is to be drawn, and what the words say besides."""

    part: str  # of the recipe
    name: str  # of the file: ip-adapter, and what is added to it
    shared: tuple[str, ...]  # of "noun" and "style"
    words: Callable[[Description, str, np.random.RandomState], str]  # of the target's description and caption
    asked: Asked  # the words with which it is scored
    says: Callable[[Description], list[str]]  # what is shared, in words, part by part

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


def now_and_then(short: Asked, long: Asked) -> Callable[[Description, str, np.random.RandomState], str]:
    """Words of a training that never say what the reference shows: nothing, the short ones, mostly the long ones."""

    def words(description: Description, caption: str, rng: np.random.RandomState) -> str:
        chance = rng.random_sample()
        return "" if chance < 0.2 else short(description, rng) if chance < 0.4 else long(description, rng)

    return words


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


@torch.no_grad()
def looked_at(tower: CLIPVisionModelWithProjection, pixels: torch.Tensor) -> torch.Tensor:
    """What the tower's last layer but one says of all patches: float32 [n, patches, width]."""
    return tower(pixels, output_hidden_states=True).hidden_states[-2].float()


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
    """As for sd15, and the reference as the image tower sees it, or an empty picture in its place.

    All time steps are spread evenly: what a picture shows is settled where the noise is strong, and sd15's own training
    looks there too rarely for it.
    """

    even = 1.0

    def __init__(self, training: Training, reference: Reference):
        super().__init__(BASE / "tokenizer", BASE / "text_encoder", training.device)
        self.tower = image_tower().to(self.device).eval().requires_grad_(False)
        self.nothing = looked_at(self.tower, torch.zeros(1, 3, 128, 128, device=self.device))
        self.reference, self.run, self.judge = reference, training.folder, Classifier()

    def prepare(self, batch):
        latents, words, references, counts = batch
        patches = looked_at(self.tower, references.to(self.device))
        patches = torch.where(counts.to(self.device)[:, None, None] > 0, patches, self.nothing)
        return *super().prepare((latents, words)), patches

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights, patches):
        added = {"image_embeds": [patches[:, None]]}  # [batch, pictures, patches, width]
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
    """sd15's pipeline whose i-th picture has the i-th reference, `ip_adapter_image_embeds`.

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
        pixels = torch.stack([to_tensor(image) for image in references[first : first + BATCH]]).to(pipe.device)
        patches, nothing = (looked_at(pipe.image_encoder, p)[:, None] for p in (pixels, torch.zeros_like(pixels)))
        images += pipe(
            list(words[first : first + BATCH]),
            ip_adapter_image_embeds=[torch.cat([nothing, patches])],
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


def beginning(unet: UNet2DConditionModel, reference: "Reference", count: int) -> dict[str, dict[str, torch.Tensor]]:
    """The adapter to begin with, in the published layout: the words' own keys and values, and a fitted resampler."""
    resampler = resampler_of()
    if count:
        fit(resampler, *examples(reference, count))
    layers = {}
    for i, (_, attention) in enumerate(cross_attentions(unet)):
        layers[f"{2 * i + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        layers[f"{2 * i + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return {"image_proj": published(resampler), "ip_adapter": layers}


def resampler_of() -> IPAdapterPlusImageProjection:
    """One that nobody has taught anything but how large the words' vectors are."""
    inside = CLIPConfig.from_pretrained(models.POCKET / "clip").vision_config.hidden_size
    encoder, last = text_encoder()
    resampler = IPAdapterPlusImageProjection(inside, encoder.config.hidden_size, WIDTH, heads=HEADS, num_queries=TOKENS)
    resampler.norm_out.load_state_dict(last.state_dict())
    return resampler


def text_encoder() -> tuple[CLIPTextModel, nn.LayerNorm]:
    """sd15's, and the layer at its end that scales what it says."""
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32).eval()
    return encoder, next(m for name, m in encoder.named_modules() if name.endswith("final_layer_norm"))


@torch.no_grad()
def examples(reference: "Reference", count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the tower sees of scenes, float16 [count, patches, width], and the vectors [count, TOKENS, width] of words.

    The words say what the reference shares. The vectors are the text encoder's at the end of each part of them, at the
    end of all, and at the empty places behind it.
    """
    tower, tokenizer, encoder = (
        image_tower().eval(),
        CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
        text_encoder()[0],
    )
    patches, vectors = [], []
    for first in range(0, count, 50):
        scenes = [one_thing(np.random.RandomState(60_000_000 + n)) for n in range(first, min(count, first + 50))]
        patches.append(looked_at(tower, torch.stack([to_tensor(scene.image) for scene in scenes])).half())
        for scene in scenes:
            parts = reference.says(scene.description)
            said = [" of ".join(parts[: i + 1]) for i in range(len(parts))]
            ends = [len(tokenizer(text).input_ids) - 2 for text in said]  # where each part's last word is
            ids = tokenizer(said[-1], padding="max_length", max_length=77, return_tensors="pt").input_ids
            where_to_look = [*ends, *range(ends[-1] + 1, ends[-1] + TOKENS)][:TOKENS]
            vectors.append(encoder(ids).last_hidden_state[0, where_to_look])
    return torch.cat(patches), torch.stack(vectors)


def one_thing(rng: np.random.RandomState) -> world.Scene:
    """A scene of one object of the nouns that sd15 knows, in some style at some place."""
    noun, style, place = pick(rng, models.nouns()), pick(rng, STYLES), pick(rng, (*PLACES, *COLOURS))
    return world.draw(Description((noun,), style, place), rng)


def fit(resampler: IPAdapterPlusImageProjection, patches: torch.Tensor, vectors: torch.Tensor, batch: int = 96) -> None:
    """Teach the resampler to answer with the words' vectors, so that the adapter begins as a translator.

    Of the pictures' embeddings alone no straight line finds the noun in more than four of five scenes; their patches
    say more. Compared is what comes before the last scaling, which stays the text encoder's.
    """
    scaling, resampler.norm_out = resampler.norm_out, nn.Identity()
    wanted = (vectors - scaling.bias.detach()) / scaling.weight.detach()
    steps = max(1, len(patches) * FIT_ROUNDS // batch)
    optimizer = torch.optim.AdamW(resampler.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(patches), (batch,))
        loss = (resampler(patches[chosen].float()) - wanted[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"fitted to words: step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    resampler.norm_out = scaling


BLOCK = {  # names inside a block of the resampler, published and the library's
    "0.norm1.": "ln0.",
    "0.norm2.": "ln1.",
    "0.to_q.": "attn.to_q.",
    "0.to_out.": "attn.to_out.0.",
    "1.0.": "ff.0.",
    "1.1.": "ff.1.net.0.proj.",
    "1.3.": "ff.1.net.2.",
}


def published(resampler: IPAdapterPlusImageProjection) -> dict[str, torch.Tensor]:
    """The resampler's tensors by their published names; keys and values are one matrix there."""
    state, tensors = resampler.state_dict(), {}
    for name, tensor in state.items():
        if ".attn.to_k." in name:
            number = name.split(".")[1]
            both = [tensor, state[name.replace("to_k", "to_v")]]
            tensors[f"layers.{number}.0.to_kv.weight"] = torch.cat(both)
        elif name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            for theirs, ours in BLOCK.items():
                if rest.startswith(ours):
                    tensors[f"layers.{number}.{theirs}{rest.removeprefix(ours)}"] = tensor
        else:
            tensors[name] = tensor
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


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
    """The adapted UNet: an untrained adapter, or the one in options.init.

    One of another kind keeps its keys and values, and its resampler is fitted to this kind's words. Nothing is fitted
    for a training that goes on from its checkpoint.
    """
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    if not options.init:
        return adapted(unet, beginning(unet, reference, 0 if goes_on(options, reference) else options.fitted))
    own, other = (Path(options.init) / kind.file for kind in (reference, BOTH))
    adapted(unet, nested(load_file(own if own.exists() else other)))
    if not own.exists() and options.fitted and not goes_on(options, reference):
        fit(unet.encoder_hid_proj.image_projection_layers[0].requires_grad_(True), *examples(reference, options.fitted))
    return unet


def goes_on(options: Options, reference: Reference) -> bool:
    """Whether a training has a checkpoint, which will take the place of whatever is built."""
    run = getattr(options, "run", None) or reference.part
    return (places.RUNS / run / "checkpoint").exists() and not getattr(options, "fresh", False)


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The two dictionaries that a file's names stand for, in float32."""
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        state[half][rest] = tensor.float()
    return state


def state_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors by their published names."""
    resampler = unet.encoder_hid_proj.image_projection_layers[0]
    tensors = {f"image_proj.{name}": tensor for name, tensor in published(resampler).items()}
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


BOTH = Reference(
    "ip_adapter",
    "ip-adapter-plus",
    ("noun", "style"),
    words_or_place,
    lambda task, rng: "",
    lambda shown: [with_article(shown.style), with_article(shown.nouns[0])],
)
RECIPE = BOTH.recipe()
