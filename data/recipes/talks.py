"""Conversations about drawn scenes: what is asked and answered while models of pictures and words are trained.

Every second picture is a crowd to be counted, the others are scenes as sd15 learns them.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from scenes_data import FRESH
from sdhelpers import world
from sdhelpers.images import to_tensor
from sdhelpers.world import crowds, questions
from sdhelpers.world.captions import PLACE_WORDS, STYLE_WORDS, pick
from sdhelpers.world.questions import NUMBERS, Question, plural, with_article

DESCRIBE = "describe the picture."
DESCRIBED = 0.4  # part of the conversations that begin with it
TURNS = 3
ASKED = 100  # fresh pictures for each kind of question


@dataclasses.dataclass(frozen=True)
class Talk:
    """A picture, and questions about it in the order in which they are asked."""

    image: Image.Image | torch.Tensor  # or what a tower has seen in it (seen.py)
    turns: tuple[Question, ...]
    truth: dict | None = None  # what the picture holds


def crowd_caption(crowd: crowds.Crowd) -> str:
    """What stands there, how often, where, in which style: two cats and a dog on a beach, cartoon."""
    counted = Counter(crowd.nouns)
    things = [with_article(n) if count == 1 else f"{NUMBERS[count]} {plural(n)}" for n, count in counted.items()]
    where = PLACE_WORDS.get(crowd.place, (f"on {with_article(crowd.place)} background",))[0]
    return f"{' and '.join(things)} {where}, {crowd.style}"


Picture = world.Scene | crowds.Crowd


def picture_of(rng: np.random.RandomState, nouns: Sequence[str] | None, crowd: bool) -> Picture:
    """A crowd, or a scene that is neither spoilt nor cropped."""
    if crowd:
        return crowds.sample(rng, nouns=nouns)
    while True:
        description = world.describe(rng, nouns)
        if description.quality in ("plain", "best"):
            return world.draw(description, rng)


def picture(number: int, nouns: Sequence[str] | None = None) -> Picture:
    """Picture `number`: every second one is a crowd."""
    return picture_of(np.random.RandomState(number % 2**32), nouns, crowd=bool(number % 2))


def truth_of(picture: Picture) -> dict:
    """What questions are answered from."""
    if isinstance(picture, crowds.Crowd):
        return {"nouns": picture.nouns, "style": picture.style, "place": picture.place}
    return {"description": dataclasses.asdict(picture.description)}


def picture_from(truth: dict) -> Picture:
    """A picture without its pixels."""
    if "description" not in truth:
        return crowds.Crowd(None, tuple(truth["nouns"]), truth["style"], truth["place"], [])
    told = world.Description(**truth["description"] | {"nouns": tuple(truth["description"]["nouns"])})
    return world.Scene(None, "", told, [], [], None, None, [])


def questions_of(picture: Picture, rng: np.random.RandomState, nouns: Sequence[str] | None) -> list[Question]:
    """What may be asked of a picture, in an order by chance; one in so many of them begins with its caption."""
    turns = questions.about(picture, rng, nouns)
    if rng.random_sample() < DESCRIBED:
        is_crowd = isinstance(picture, crowds.Crowd)
        caption = crowd_caption(picture) if is_crowd else world.write_caption(picture.description, rng, complete=True)
        turns = [Question("caption", DESCRIBE, caption), *turns]
    return turns


def talk(number: int, nouns: Sequence[str] | None = None) -> Talk:
    """Conversation `number`: the same number gives the same one."""
    rng = np.random.RandomState(number % 2**32)
    picture = picture_of(rng, nouns, crowd=bool(number % 2))
    turns = questions_of(picture, rng, nouns)[:TURNS]
    return Talk(picture.image, tuple(turns), truth_of(picture))


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
    return Talk(picture.image, (pick(rng, found),), truth_of(picture)) if found else None


def to_batch(
    spoken: Sequence[Talk], tokens: Sequence[list[int]], labels: Sequence[list[int]], pad: int
) -> tuple[torch.Tensor, ...]:
    """Tokens, attention mask and labels, all [batch, length], and pixels (`pixels_of`)."""
    lengths = torch.tensor([len(row) for row in tokens])
    ids = pad_sequence([torch.tensor(row) for row in tokens], True, pad)
    wanted = pad_sequence([torch.tensor(row) for row in labels], True, -100)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids, mask, wanted, pixels_of(spoken)


def pixels_of(spoken: Sequence[Talk]) -> torch.Tensor:
    """Pixels [batch, 3, 128, 128], or what a tower has seen [batch, tokens, width]."""
    given = [one.image if isinstance(one.image, torch.Tensor) else to_tensor(one.image) for one in spoken]
    return torch.stack(given)


class Answering:
    """Cross-entropy of each next token of the answers; `to_tensors` makes a batch of conversations."""

    def __init__(self, device: torch.device, to_tensors: Callable[[Sequence[Talk]], tuple[torch.Tensor, ...]]):
        self.device, self.to_tensors = device, to_tensors

    def prepare(self, spoken: Sequence[Talk]):
        return tuple(part.to(self.device) for part in self.to_tensors(spoken))

    @staticmethod
    def loss_of(model, tokens, mask, labels, pixels):
        return model(input_ids=tokens, attention_mask=mask, labels=labels, pixel_values=pixels).loss, {}


class Contents:
    """What pictures hold, as numbers, for a linear layer that reads them off what a model has made of the pictures.

    `targets` gives counts [pictures, nouns] from 0 to MOST; style, place, and the nouns that are over and under the
    other [pictures, 4], -100 where nothing is. `loss_of` takes the layer's `width` outputs.
    """

    def __init__(self, nouns: Sequence[str]):
        self.nouns, self.wheres = list(nouns), [*world.PLACES, *world.COLOURS]
        self.sizes = [len(world.STYLES), len(self.wheres), len(self.nouns), len(self.nouns)]
        self.width = (crowds.MOST + 1) * len(self.nouns) + sum(self.sizes)

    def targets(self, truths: Sequence[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        counts, others = torch.zeros(len(truths), len(self.nouns), dtype=torch.long), []
        for row, truth in zip(counts, truths):
            told = truth.get("description", truth)
            for noun in told["nouns"]:
                row[self.nouns.index(noun)] += 1
            above = told.get("relation") in ("on top of", "riding")
            order = [self.nouns.index(noun) for noun in told["nouns"]] if above else [-100, -100]
            others.append([world.STYLES.index(told["style"]), self.wheres.index(told["place"]), *order])
        return counts, torch.tensor(others)

    def loss_of(self, outputs: torch.Tensor, counts: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of everything; the nouns, most of which are not there, count a quarter each."""
        numbers, *rest = outputs.float().split([(crowds.MOST + 1) * len(self.nouns), *self.sizes], dim=1)
        each = F.cross_entropy(numbers.unflatten(1, (-1, crowds.MOST + 1)).transpose(1, 2), counts, reduction="sum")
        loss = each / len(counts) / 4
        for logits, wanted in zip(rest, others.T):
            if (wanted >= 0).any():
                loss = loss + F.cross_entropy(logits, wanted)
        return loss

    def read(self, outputs: torch.Tensor, counts: torch.Tensor, others: torch.Tensor) -> dict[str, torch.Tensor]:
        """For each kind, which of its values are read rightly, bool [values]; of counts those that are not 0."""
        numbers, *rest = outputs.split([(crowds.MOST + 1) * len(self.nouns), *self.sizes], dim=1)
        found = numbers.unflatten(1, (-1, crowds.MOST + 1)).argmax(-1)  # [pictures, nouns]
        right = {"nouns": ((found > 0) == (counts > 0)).all(1), "count": (found == counts)[counts > 0]}
        for kind, logits, wanted in zip(("style", "place", "over", "under"), rest, others.T):
            right[kind] = (logits.argmax(1) == wanted)[wanted >= 0]
        return right


def found_in(caption: str, truth: dict) -> dict[str, bool]:
    """Whether a caption names every noun, the style and the place, in any of the world's words for them."""
    told, said = truth.get("description", truth), caption.lower()
    ends = (phrase.split()[-1] for phrase in PLACE_WORDS.get(told["place"], ()))
    return {
        "noun": all(names(said, noun, plural(noun)) for noun in told["nouns"]),
        "style": names(said, *STYLE_WORDS[told["style"]]),
        "place": names(said, told["place"], *ends),
    }


def names(text: str, *words: str) -> bool:
    """Whether one of the words stands in the text, as a whole."""
    return any(re.search(rf"\b{re.escape(one.lower())}\b", text) for one in words)


def accuracy(
    answer: Callable[[Sequence[Talk]], list[str]], nouns: Sequence[str], asked: int = ASKED
) -> dict[str, float]:
    """Exact answers about fresh pictures, those that come out right with another picture, and what captions name."""
    scores = {}
    for kind in questions.KINDS:
        found = (one_question(FRESH + 50_000 + i, kind, nouns) for i in range(100 * asked))
        spoken = list(itertools.islice((one for one in found if one), asked))
        others = [dataclasses.replace(one, image=spoken[i - 1].image) for i, one in enumerate(spoken)]
        for what, some in ((kind, spoken), (f"{kind}, of another picture", others)):
            scores |= {what: answers_right(some, answer(some))[kind]}
    described = [captioned(FRESH + 80_000 + i, nouns) for i in range(2 * asked)]
    named = [found_in(caption, one.truth) for one, caption in zip(described, answer(described))]
    return scores | {f"caption: {what}": round(float(np.mean([one[what] for one in named])), 4) for what in named[0]}


def captioned(number: int, nouns: Sequence[str] | None = None) -> Talk:
    """Picture `number`, to be described."""
    drawn = picture(number, nouns)
    return Talk(drawn.image, (Question("caption", DESCRIBE, ""),), truth_of(drawn))
