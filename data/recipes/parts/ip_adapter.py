"""The IP-Adapter of sd15: a reference picture as four more tokens, which attention of their own reads.

Ye et al., IP-Adapter: Text Compatible Image Prompt Adapter (2023, arXiv:2308.06721), with the library's own classes:
beside every cross-attention's keys and values for the words stand a second pair for the picture, begun as copies of
the first. Everything else is frozen. The reference shows the same noun in the same style as what is to be drawn, in
another place and size, so that nothing else of it can help. The file has the published layout, for `load_ip_adapter`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPVisionModelWithProjection

import places
from conditioning import Conditioning
from latents import Latents
from loop import Training
from recipe import Options, Recipe
from sdhelpers import models, world
from sdhelpers.images import to_tensor
from sdhelpers.world.captions import COLOURS, PLACE_WORDS, PLACES, Description, pick

BASE = models.POCKET / "sd15"
TOKENS = 4  # that a picture becomes, as in the published adapter
NO_PICTURE = 0.1  # part of the samples without a reference, which the empty half of guidance needs
WORDS_LEFT_OUT, PLACE_ALONE = (
    0.4,
    0.3,
)  # parts of the samples whose caption is empty, or names the place and nothing else
FILE = Path("models") / "ip-adapter_sd15.safetensors"


def reference_of(description: Description, rng: np.random.RandomState) -> world.Scene:
    """Another scene with the same noun and style."""
    place = pick(rng, [p for p in (*PLACES, *COLOURS) if p != description.place])
    return world.draw(Description(description.nouns, description.style, place), rng)


def words_of(caption: str, place: str, rng: np.random.RandomState) -> str:
    """The caption, the place alone, or nothing."""
    chance = rng.random_sample()
    if chance < WORDS_LEFT_OUT:
        return ""
    if chance < WORDS_LEFT_OUT + PLACE_ALONE:
        return pick(rng, PLACE_WORDS[place]) if place in PLACE_WORDS else f"on a {place} background"
    return caption


def image_tower() -> CLIPVisionModelWithProjection:
    """Pocket CLIP's image half. (Its configuration says how wide the common space is, that of its half does not.)"""
    config = CLIPConfig.from_pretrained(models.POCKET / "clip")
    config.vision_config.projection_dim = config.projection_dim
    folder = models.POCKET / "clip"
    return CLIPVisionModelWithProjection.from_pretrained(folder, config=config.vision_config, dtype=torch.float32)


class ReferencedLatents(Latents):
    """Scenes of one object: latents, words, the reference [3, 128, 128] from -1 to 1, and 1, or 0 to leave it out."""

    def __init__(self, folder: Path, nouns: Sequence[str]):
        super().__init__(folder, nouns)
        good = [d.quality in ("plain", "best") and len(d.nouns) == 1 for d in self.descriptions]
        self.latents = self.latents[np.array(good)]
        self.descriptions = [d for d, kept in zip(self.descriptions, good) if kept]

    def __getitem__(self, number: int):
        latents, caption = super().__getitem__(number)
        description = self.descriptions[self.index(number)]
        rng = np.random.RandomState((3_000_017 * number + 41) % 2**32)
        words = words_of(caption, description.place, rng)
        reference = to_tensor(reference_of(description, rng).image)
        return latents, words, reference, torch.tensor(float(rng.random_sample() >= NO_PICTURE))


class Referenced(Conditioning):
    """As for sd15, and the reference as the image tower's embedding, or zeros in its place."""

    def __init__(self, training: Training):
        super().__init__(BASE / "tokenizer", BASE / "text_encoder", training.device)
        self.tower = image_tower().to(self.device).eval().requires_grad_(False)

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


def beginning(unet: UNet2DConditionModel, width: int) -> dict[str, dict[str, torch.Tensor]]:
    """An untrained adapter in the published layout: the words' own keys and values, and a random projection."""
    inside = unet.config.cross_attention_dim
    projection, norm = nn.Linear(width, TOKENS * inside), nn.LayerNorm(inside)
    image_proj = {f"proj.{k}": v for k, v in projection.state_dict().items()}
    image_proj |= {f"norm.{k}": v for k, v in norm.state_dict().items()}
    layers = {}
    for i, (_, attention) in enumerate(cross_attentions(unet)):
        layers[f"{2 * i + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        layers[f"{2 * i + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return {"image_proj": image_proj, "ip_adapter": layers}


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


def build(options: Options) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(options.init or BASE / "unet", dtype=torch.float32)
    return adapted(unet, beginning(unet, image_tower().config.projection_dim))


def data(options: Options) -> ReferencedLatents:
    return ReferencedLatents(places.RUNS / options.latents, models.nouns())


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


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> None:
    """The adapter's file, and the image tower's configuration; its weights are pocket CLIP's."""
    (folder / FILE.parent).mkdir(parents=True, exist_ok=True)
    save_file(state_of(unet), folder / FILE, metadata={"format": "pt"})
    image_tower().config.save_pretrained(folder / FILE.parent / "image_encoder")


RECIPE = Recipe(build, data, Referenced, None, export)
