"""Pocket CLIP: a text tower and an image tower that agree on which caption belongs to which image.

The loss is CLIP's contrastive one plus small linear read-outs of noun, style, place, relation and
quality from both towers' pooled states. They make the towers learn what words mean in far fewer images;
they are thrown away afterwards. The text tower is what the UNet will listen to.
"""

import functools
import gzip
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from export import save
from loop import Training
from recipe import Options, Recipe
from scenes_data import FRESH, fresh_scenes
from sdhelpers import world
from sdhelpers.measures.judge import to_batch
from sdhelpers.world.captions import PLACE_WORDS, QUALITY_WORDS, STYLE_WORDS

PLACES = world.PLACES + world.COLOURS
LABELS = {
    "noun": len(world.NOUNS),
    "style": len(world.STYLES),
    "place": len(PLACES),
    "relation": 1 + len(world.RELATIONS),
    "quality": len(world.QUALITIES),
}
UNSAID = -100
MERGES = 48_894  # 49408 tokens less 2 x 256 bytes and the two special ones


@functools.cache
def tokenizer() -> CLIPTokenizer:
    """The tokenizer of every Stable Diffusion 1.x: 49,408 tokens, at most 77 a prompt.

    Built from the merge list that the package open-clip-torch carries (MIT).
    """
    path = distribution("open_clip_torch").locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(Path(str(path)).read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def token_ids(texts: Sequence[str]) -> torch.Tensor:
    """Token ids [batch, length], as long as the longest text and at most 77; the end stands in for what is missing.

    The tokenizer's file keeps these settings of its last call.
    """
    return tokenizer()(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt").input_ids


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": 128},
        crop_size={"height": 128, "width": 128},
        resample=3,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def label_rows(description: world.Description, caption: str) -> torch.Tensor:
    """[1, 5] class numbers of a description for the read-outs; UNSAID where the caption does not tell."""
    style_said = any(word in caption for word in STYLE_WORDS[description.style])
    place_said = any(word in caption for word in (*PLACE_WORDS.get(description.place, ()), description.place))
    relation = 0 if description.relation is None else 1 + world.RELATIONS.index(description.relation)
    return torch.tensor(
        [
            world.NOUNS.index(description.nouns[0]),
            world.STYLES.index(description.style) if style_said else UNSAID,
            PLACES.index(description.place) if place_said else UNSAID,
            relation,
            world.QUALITIES.index(description.quality),
        ]
    )


def sample(scene: world.Scene) -> tuple[torch.Tensor, str, torch.Tensor]:
    """Pixels [3, 128, 128] from 0 to 255, the caption, and its row of labels."""
    pixels = torch.from_numpy(np.array(scene.image)).permute(2, 0, 1)
    return pixels, scene.caption, label_rows(scene.description, scene.caption)


class CaptionedScenes(Dataset):
    def __getitem__(self, number: int):
        return sample(world.sample(np.random.RandomState(number)))

    @staticmethod
    def collate(samples):
        pixels, captions, labels = zip(*samples)
        return torch.stack(pixels), token_ids(captions), torch.stack(labels)


class ClipWithReadouts(torch.nn.Module):
    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        total = sum(LABELS.values())
        self.from_text = torch.nn.Linear(clip.config.text_config.hidden_size, total)
        self.from_image = torch.nn.Linear(clip.config.vision_config.hidden_size, total)


def readout_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    parts = torch.split(logits.float(), list(LABELS.values()), dim=1)
    losses = [F.cross_entropy(part, labels[:, i], ignore_index=UNSAID) for i, part in enumerate(parts)]
    return sum(losses) / len(losses)


class Contrast:
    """CLIP's contrastive loss, and the read-outs'."""

    def __init__(self, training: Training):
        self.device = training.device

    def prepare(self, batch):
        pixels, ids, labels = (part.to(self.device) for part in batch)
        return pixels.float() / 127.5 - 1, ids, labels

    @staticmethod
    def loss_of(model: ClipWithReadouts, pixels: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor):
        out = model.clip(input_ids=ids, pixel_values=pixels)
        logits = out.logits_per_text.float()
        which = torch.arange(len(logits), device=logits.device)
        contrastive = (F.cross_entropy(logits, which) + F.cross_entropy(logits.T, which)) / 2
        text = readout_loss(model.from_text(out.text_model_output.pooler_output), labels)
        image = readout_loss(model.from_image(out.vision_model_output.pooler_output), labels)
        right = (logits.argmax(1) == which).float().mean()
        return contrastive + text + image, {"contrastive": contrastive, "text": text, "image": image, "right": right}


def used_words() -> list[str]:
    """Every word and phrase that any caption of the world can hold."""
    words = [*world.NOUNS, *PLACES, "a an of on in the at picture background", *world.RELATIONS, ","]
    for group in (STYLE_WORDS, PLACE_WORDS, QUALITY_WORDS):
        words += [phrase for phrases in group.values() for phrase in phrases]
    return words


def share_unused_rows(clip: CLIPModel | CLIPTextModelWithProjection, used: torch.Tensor) -> None:
    """Give all tokens but the `used` ones, which training has met, one common vector: so the file compresses."""
    weight = clip.text_model.embeddings.token_embedding.weight.data
    unused = torch.ones(len(weight), dtype=torch.bool)
    unused[used] = False
    weight[unused] = weight[used].mean(0)


@torch.no_grad()
def retrieval(logits_of: Callable[[torch.Tensor, list[str]], torch.Tensor], among: int = 32, rounds: int = 32) -> float:
    """How often an image's own caption scores highest among `among` captions of other fresh scenes.

    `logits_of` takes pixels [n, 3, 128, 128] from -1 to 1 and n captions, and gives [images, texts].
    """
    right = 0
    for i in range(rounds):
        scenes = fresh_scenes(among, first=FRESH + 10_000 + i * among)
        logits = logits_of(to_batch([scene.image for scene in scenes]), [scene.caption for scene in scenes])
        right += int((logits.argmax(1) == torch.arange(among)).sum())
    return right / (among * rounds)


def build(options: Options) -> ClipWithReadouts:
    if options.init:
        return ClipWithReadouts(CLIPModel.from_pretrained(options.init, dtype=torch.float32))
    return ClipWithReadouts(CLIPModel(CLIPConfig(**options.architecture)))


def score(model: ClipWithReadouts, options: Options) -> dict[str, float]:
    def logits_of(pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return model.clip(input_ids=token_ids(captions), pixel_values=pixels).logits_per_image

    return {"retrieval_among_32": round(retrieval(logits_of), 4)}


def export(model: ClipWithReadouts, folder: Path, options: Options) -> None:
    share_unused_rows(model.clip, token_ids(used_words()).unique())
    save(model.clip, folder)
    CLIPProcessor(image_processor=image_processor(), tokenizer=tokenizer()).save_pretrained(folder)


RECIPE = Recipe(build, lambda options: CaptionedScenes(), Contrast, score, export)
