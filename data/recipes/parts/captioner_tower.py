"""The image tower of both captioners: pocket CLIP's with a LoRA that was taught what a picture holds.

Pocket CLIP has learnt to tell pictures from one another in words, and of what a picture holds a linear layer reads only
four fifths off it (README.md, what was tried). So a LoRA on all its layers learns further, while such a layer reads
every noun and how often it stands there, style, place, and which noun is above another off the tower's vectors. (The
published captioners, too, took better towers than the first CLIP's.) The layer is not kept.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

import places
import talks
from loop import Training
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import models
from sdhelpers.images import to_tensor
from seen import SeenPictures, digest

CLIP = models.POCKET / "clip"
ASKED = 1000  # fresh pictures that are read
LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
FILE = "low_rank.safetensors"


class Reader(torch.nn.Module):
    """A tower, and the layer that reads its vector for the whole, the mean and the largest of its patches'."""

    def __init__(self, tower: CLIPVisionModel, contents: talks.Contents):
        super().__init__()
        self.tower = tower
        self.reading = torch.nn.Linear(3 * tower.config.hidden_size, contents.width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [n, 3, size, size] to what `Contents.loss_of` takes [n, width]."""
        vectors = self.tower(pixels).last_hidden_state  # [n, 1 + patches, width]
        patches = vectors[:, 1:]
        return self.reading(torch.cat([vectors[:, 0], patches.mean(1), patches.amax(1)], 1))


def moved(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, size, size] made larger or smaller by up to a sixth, shifted, half of them mirrored.

    That leaves nearly all of what they hold; where a picture ends its last pixels go on.
    """
    count = len(pixels)
    scale = torch.empty(count).uniform_(0.85, 1.2)  # of the part that is looked at: 1.2 makes things smaller
    mirror = torch.randint(0, 2, (count,)) * 2 - 1
    turn = torch.diag_embed(torch.stack([mirror * scale, scale], 1))  # [n, 2, 2]
    shift = torch.empty(count, 2, 1).uniform_(-0.15, 0.15)  # of half a side
    grid = F.affine_grid(torch.cat([turn, shift], 2), pixels.shape, align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


class Reading:
    """The loss of what is read off pictures that come back moved, never twice the same."""

    def __init__(self, training: Training):
        self.device, self.contents = training.device, talks.Contents(places.words(training.options.nouns))

    def prepare(self, batch: tuple[torch.Tensor, Sequence[dict]]) -> tuple[torch.Tensor, ...]:
        pixels, truths = batch
        return tuple(part.to(self.device) for part in (moved(pixels), *self.contents.targets(truths)))

    def loss_of(self, model, pixels, counts, others):
        return self.contents.loss_of(model(pixels), counts, others), {}


def build(options: Options) -> Reader:
    """Pocket CLIP's tower with a LoRA that changes nothing yet."""
    if options.init:
        raise SystemExit("This recipe begins with pocket CLIP and takes no --init; a paused run goes on.")
    tower = clip_tower()
    lora = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=LAYERS)
    inject_adapter_in_model(lora, tower.requires_grad_(False))
    return Reader(tower, talks.Contents(places.words(options.nouns)))


def load(folder: Path) -> CLIPVisionModel:
    """Pocket CLIP's tower with what an export in `folder` adds to it."""
    tower, factors = clip_tower(), load_file(Path(folder) / FILE)
    inner, named = getattr(tower, "vision_model", tower), {}
    for name, tensor in inner.state_dict().items():
        if f"{name}.up" in factors:
            tensor = tensor + factors[f"{name}.up"].float() @ factors[f"{name}.down"].float()
        named[name] = tensor
    inner.load_state_dict(named)
    return tower


def name_of(folder: Path) -> str:
    """What tells the export in `folder` from any other."""
    return digest((Path(folder) / FILE).read_bytes())


def configuration() -> CLIPVisionConfig:
    """The tower's sizes."""
    return CLIPConfig.from_pretrained(CLIP).vision_config


def clip_tower() -> CLIPVisionModel:
    """Pocket CLIP's image tower, as a model of its own."""
    tower = CLIPVisionModel(configuration())
    clip = CLIPModel.from_pretrained(CLIP, dtype=torch.float32).vision_model
    getattr(tower, "vision_model", tower).load_state_dict(clip.state_dict())
    return tower.eval()


def data(options: Options) -> SeenPictures:
    return SeenPictures(range(options.drawn), places.words(options.nouns))


@torch.no_grad()
def score(model: Reader, options: Options) -> dict[str, float]:
    """What is read rightly off fresh pictures, for each kind."""
    nouns = places.words(options.nouns)
    contents, parts = talks.Contents(nouns), []
    for start in range(0, ASKED, 50):
        drawn = [talks.picture(FRESH + 60_000 + start + i, nouns) for i in range(50)]
        outputs = model(torch.stack([to_tensor(picture.image) for picture in drawn]))
        parts.append(contents.read(outputs, *contents.targets([talks.truth_of(picture) for picture in drawn])))
    return {kind: round(float(torch.cat([part[kind] for part in parts]).float().mean()), 4) for kind in parts[0]}


def export(model: Reader, folder: Path, options: Options) -> dict:
    """NAME.up [out, rank] and NAME.down [rank, in] of each weight of pocket CLIP's tower that has changed."""
    factors = {}
    for name, layer in getattr(model.tower, "vision_model", model.tower).named_modules():
        if hasattr(layer, "lora_A"):
            (kind,) = layer.lora_A
            factors[f"{name}.weight.up"] = layer.scaling[kind] * layer.lora_B[kind].weight
            factors[f"{name}.weight.down"] = layer.lora_A[kind].weight
    save_file({name: tensor.half().contiguous() for name, tensor in factors.items()}, folder / FILE)
    return {"nouns": places.words(options.nouns)}


RECIPE = Recipe(build, data, Reading, score, export)
