"""Train pocket CLIP: a text tower and an image tower that agree on which caption belongs to which image.

    python data/recipes/train_clip.py --minutes 60

The loss is CLIP's contrastive one plus small linear read-outs of noun, style, place, relation and
quality from both towers' pooled states. They make the towers learn what words mean in far fewer images;
they are thrown away afterwards. The text tower is what the UNet will listen to.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from loop import Training, arguments
from scenes_data import FRESH, fresh_scenes
from sdhelpers import world
from sdhelpers.world.captions import PLACE_WORDS, STYLE_WORDS
from tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
PLACES = world.PLACES + world.COLOURS
LABELS = {
    "noun": len(world.NOUNS),
    "style": len(world.STYLES),
    "place": len(PLACES),
    "relation": 1 + len(world.RELATIONS),
    "quality": len(world.QUALITIES),
}
UNSAID = -100

TEXT = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=77,
    vocab_size=49_408,
    hidden_act="quick_gelu",
    bos_token_id=49_406,
    eos_token_id=49_407,
    pad_token_id=49_407,
)
VISION = dict(
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=6,
    image_size=128,
    patch_size=16,
    hidden_act="quick_gelu",
)


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": 128},
        crop_size={"height": 128, "width": 128},
        resample=3,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def said(words, caption: str) -> bool:
    return any(word in caption for word in words)


def label_rows(description: world.Description, caption: str) -> torch.Tensor:
    """[1, 5] class numbers of a description for the read-outs; UNSAID where the caption does not tell."""
    style_words = STYLE_WORDS[description.style]
    place_words = (*PLACE_WORDS.get(description.place, ()), description.place)
    relation = 0 if description.relation is None else 1 + world.RELATIONS.index(description.relation)
    return torch.tensor(
        [
            world.NOUNS.index(description.nouns[0]),
            world.STYLES.index(description.style) if said(style_words, caption) else UNSAID,
            PLACES.index(description.place) if said(place_words, caption) else UNSAID,
            relation,
            world.QUALITIES.index(description.quality),
        ]
    )


class CaptionedScenes(Dataset):
    def __getitem__(self, number: int):
        scene = world.sample(np.random.RandomState(number))
        pixels = torch.from_numpy(np.array(scene.image)).permute(2, 0, 1)
        return pixels, scene.caption, label_rows(scene.description, scene.caption)


def collate(samples):
    pixels, captions, labels = zip(*samples)
    tokens = TOKENIZER(list(captions), padding=True, truncation=True, max_length=77, return_tensors="pt")
    return torch.stack(pixels), tokens.input_ids, torch.stack(labels)


class ClipWithReadouts(torch.nn.Module):
    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        total = sum(LABELS.values())
        self.from_text = torch.nn.Linear(TEXT["hidden_size"], total)
        self.from_image = torch.nn.Linear(VISION["hidden_size"], total)


def readout_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    parts = torch.split(logits.float(), list(LABELS.values()), dim=1)
    losses = [F.cross_entropy(part, labels[:, i], ignore_index=UNSAID) for i, part in enumerate(parts)]
    return sum(losses) / len(losses)


def loss_of(model: ClipWithReadouts, pixels: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor):
    out = model.clip(input_ids=ids, pixel_values=pixels)
    logits = out.logits_per_text.float()
    which = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, which) + F.cross_entropy(logits.T, which)) / 2
    text = readout_loss(model.from_text(out.text_model_output.pooler_output), labels)
    image = readout_loss(model.from_image(out.vision_model_output.pooler_output), labels)
    right = (logits.argmax(1) == which).float().mean()
    return contrastive + text + image, {"contrastive": contrastive, "text": text, "image": image, "right": right}


def used_tokens() -> torch.Tensor:
    """Ids of every token that any caption of the world can hold."""
    from sdhelpers.world import captions as c

    words = [*world.NOUNS, *PLACES, "a an of on in the at picture background", *world.RELATIONS, ","]
    for group in (c.STYLE_WORDS, c.PLACE_WORDS, c.QUALITY_WORDS):
        words += [phrase for phrases in group.values() for phrase in phrases]
    ids = {i for text in words for i in TOKENIZER(text).input_ids}
    return torch.tensor(sorted(ids))


def share_unused_rows(clip: CLIPModel) -> None:
    """Give all tokens that training never met one common vector, so that the file compresses."""
    weight = clip.text_model.embeddings.token_embedding.weight.data
    used = used_tokens()
    unused = torch.ones(len(weight), dtype=torch.bool)
    unused[used] = False
    weight[unused] = weight[used].mean(0)


@torch.no_grad()
def retrieval(clip: CLIPModel, among: int = 32, rounds: int = 32) -> float:
    """How often an image's own caption scores highest among `among` captions of other fresh scenes."""
    right = 0
    for i in range(rounds):
        scenes = fresh_scenes(among, first=FRESH + 10_000 + i * among)
        pixels, ids, _ = collate(
            [
                (torch.from_numpy(np.array(s.image)).permute(2, 0, 1), s.caption, label_rows(s.description, s.caption))
                for s in scenes
            ]
        )
        out = clip(input_ids=ids, pixel_values=pixels.float() / 127.5 - 1)
        right += int((out.logits_per_image.argmax(1) == torch.arange(among)).sum())
    return right / (among * rounds)


def main() -> None:
    options = arguments(__doc__, steps=6000, batch=128, lr=1e-3)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=128)
    clip = CLIPModel.from_pretrained(options.init) if options.init else CLIPModel(config)
    model = ClipWithReadouts(clip)
    training = Training("clip", model, options)

    def prepare(batch):
        pixels, ids, labels = (part.to(training.device) for part in batch)
        return pixels.float() / 127.5 - 1, ids, labels

    training.run(CaptionedScenes(), prepare, loss_of, collate)
    clip = training.averaged_model().clip
    share_unused_rows(clip)
    scores = {"retrieval_among_32": round(retrieval(clip), 4)}
    print(scores)
    export = training.folder / "export"
    clip.half().save_pretrained(export, max_shard_size="14MB")
    CLIPProcessor(image_processor=image_processor(), tokenizer=TOKENIZER).save_pretrained(export)
    facts = {**training.facts(), "recipe": "data/recipes/train_clip.py", "scores": scores}
    (export / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
