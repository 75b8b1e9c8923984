"""Conversations about drawn scenes: what is asked and answered while models of pictures and words are trained.

Every second picture is a crowd to be counted, the others are scenes as sd15 learns them.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from scenes_data import FRESH
from sdhelpers import world
from sdhelpers.images import to_tensor
from sdhelpers.world import crowds, questions
from sdhelpers.world.captions import PLACE_WORDS, pick
from sdhelpers.world.questions import NUMBERS, Question, plural, with_article

DESCRIBE = "describe the picture."
DESCRIBED = 0.4  # part of the conversations that begin with it
TURNS = 3
ASKED = 100  # fresh pictures for each kind of question


@dataclasses.dataclass(frozen=True)
class Talk:
    """A picture, and questions about it in the order in which they are asked."""

    image: Image.Image
    turns: tuple[Question, ...]


def crowd_caption(crowd: crowds.Crowd) -> str:
    """What stands there, how often, where, in which style: two cats and a dog on a beach, cartoon."""
    counted = Counter(crowd.nouns)
    things = [with_article(n) if count == 1 else f"{NUMBERS[count]} {plural(n)}" for n, count in counted.items()]
    where = PLACE_WORDS.get(crowd.place, (f"on {with_article(crowd.place)} background",))[0]
    return f"{' and '.join(things)} {where}, {crowd.style}"


def picture_of(rng: np.random.RandomState, nouns: Sequence[str] | None, crowd: bool) -> world.Scene | crowds.Crowd:
    """A crowd, or a scene that is neither spoilt nor cropped."""
    if crowd:
        return crowds.sample(rng, nouns=nouns)
    while True:
        description = world.describe(rng, nouns)
        if description.quality in ("plain", "best"):
            return world.draw(description, rng)


def talk(number: int, nouns: Sequence[str] | None = None) -> Talk:
    """Conversation `number`: the same number gives the same one."""
    rng = np.random.RandomState(number % 2**32)
    picture = picture_of(rng, nouns, crowd=bool(number % 2))
    turns = questions.about(picture, rng, nouns)[:TURNS]
    if rng.random_sample() < DESCRIBED:
        is_crowd = isinstance(picture, crowds.Crowd)
        caption = crowd_caption(picture) if is_crowd else world.write_caption(picture.description, rng, complete=True)
        turns = [Question("caption", DESCRIBE, caption), *turns[: TURNS - 1]]
    return Talk(picture.image, tuple(turns))


def answers_right(talks: Sequence[Talk], answers: Sequence[str]) -> dict[str, float]:
    """For each kind of question the part of first questions that were answered with exactly the right words."""
    right: dict[str, list[bool]] = {}
    for spoken, answer in zip(talks, answers):
        question = spoken.turns[0]
        right.setdefault(question.kind, []).append(answer.strip().lower() == question.answer.lower())
    return {kind: round(float(np.mean(flags)), 4) for kind, flags in sorted(right.items())}


def one_question(number: int, kind: str, nouns: Sequence[str] | None = None) -> Talk | None:
    """Picture `number` with its question of this kind alone, or None when it has none."""
    rng = np.random.RandomState(number % 2**32)
    picture = picture_of(rng, nouns, crowd=bool(number % 2))
    found = [q for q in questions.about(picture, rng, nouns) if q.kind == kind]
    return Talk(picture.image, (pick(rng, found),)) if found else None


class Talks(Dataset):
    """Conversation number i; with `count`, the first so many over and over."""

    def __init__(self, count: int = 0):
        self.count = count

    def __getitem__(self, number: int) -> Talk:
        return talk(number % self.count if self.count else number)

    collate = staticmethod(list)


def to_batch(
    spoken: Sequence[Talk], tokens: Sequence[list[int]], labels: Sequence[list[int]], pad: int
) -> tuple[torch.Tensor, ...]:
    """Tokens, attention mask and labels, all [batch, length], and pixels [batch, 3, 128, 128]."""
    lengths = torch.tensor([len(row) for row in tokens])
    ids = pad_sequence([torch.tensor(row) for row in tokens], True, pad)
    wanted = pad_sequence([torch.tensor(row) for row in labels], True, -100)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids, mask, wanted, torch.stack([to_tensor(one.image) for one in spoken])


class Answering:
    """Cross-entropy of each next token of the answers; `to_tensors` makes a batch of conversations."""

    def __init__(self, device: torch.device, to_tensors: Callable[[Sequence[Talk]], tuple[torch.Tensor, ...]]):
        self.device, self.to_tensors = device, to_tensors

    def prepare(self, spoken: Sequence[Talk]):
        return tuple(part.to(self.device) for part in self.to_tensors(spoken))

    @staticmethod
    def loss_of(model, tokens, mask, labels, pixels):
        return model(input_ids=tokens, attention_mask=mask, labels=labels, pixel_values=pixels).loss, {}


def accuracy(answer: Callable[[Sequence[Talk]], list[str]]) -> dict[str, float]:
    """Exact answers about fresh pictures, and how many of them come out right when another picture is shown."""
    scores = {}
    for kind in questions.KINDS:
        found = (one_question(FRESH + 50_000 + i, kind) for i in range(100 * ASKED))
        spoken = [one for one in found if one][:ASKED]
        others = [Talk(spoken[i - 1].image, one.turns) for i, one in enumerate(spoken)]
        for what, some in ((kind, spoken), (f"{kind}, of another picture", others)):
            scores |= {what: answers_right(some, answer(some))[kind]}
    return scores
