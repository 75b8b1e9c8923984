"""The prompt language model: a GPT-2 that turns a few everyday words into a whole prompt.

Tokenizer and weights are made here from nothing but the pairs of `wishes.py`, and saved as a chat model: with a chat
template, so that `apply_chat_template` and `generate` work as with any other. Some eight minutes on two cores.
"""

import copy
import functools
import math
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import wishes
from bpe import byte_level, home
from card import share
from export import save
from loop import Training
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers.prompts.language_model import SYSTEM, Prompter, messages
from sdhelpers.world.captions import PLACES, STYLES, held_out_descriptions

TOKENS, LENGTH = 1536, 160
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HELD_OUT = 150  # wishes for the scores


def build_tokenizer(pairs: int = 20_000) -> PreTrainedTokenizerFast:
    """A small byte-level BPE with the chat template."""
    several = (wishes.sample(np.random.RandomState(FRESH + i)) for i in range(pairs))
    texts = (f"{w.words}\n{w.prompt}\n{SYSTEM}" for w in several)
    raw = byte_level(texts, TOKENS, SPECIAL, prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        extra_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE,
        model_max_length=LENGTH,
        padding_side="left",
    )


class Wishes(Dataset):
    """Wish number i as a conversation: now and then without a system message, or with one that fixes the style."""

    def __getitem__(self, number: int) -> list[dict[str, str]]:
        wish = wishes.sample(np.random.RandomState(number))
        talk = [*messages(wish.words, wish.fixed_style), {"role": "assistant", "content": wish.prompt}]
        return talk[1:] if number % 10 == 0 and wish.fixed_style is None else talk

    collate = staticmethod(list)


def to_tensors(tokenizer: PreTrainedTokenizerFast, talks: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, attention mask and labels, all [batch, length]; only the answers are to be learnt."""
    texts = tokenizer.apply_chat_template(talks, tokenize=False)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    tokens, mask = batch.input_ids, batch.attention_mask
    answer = (tokens == tokenizer.convert_tokens_to_ids("<|assistant|>")).cumsum(1) > 0
    started = torch.cat([torch.zeros_like(answer[:, :1]), answer[:, :-1]], dim=1)
    return tokens, mask, tokens.masked_fill(~(started & (mask > 0)), -100)


class Answering:
    """Cross-entropy of each next token of the answer."""

    def __init__(self, training: Training):
        self.device, self.tokenizer = training.device, tokenizer_of(training.options)

    def prepare(self, talks):
        return tuple(part.to(self.device) for part in to_tensors(self.tokenizer, talks))

    @staticmethod
    def loss_of(model, tokens: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor):
        return model(input_ids=tokens, attention_mask=mask, labels=labels).loss, {}


@torch.no_grad()
def perplexity(prompter: Prompter, pairs: list[wishes.Wish]) -> float:
    """e to the mean cross-entropy a token: among how many tokens the model hesitates."""
    talks = [[*messages(w.words), {"role": "assistant", "content": w.prompt}] for w in pairs]
    loss, _ = Answering.loss_of(prompter.model, *to_tensors(prompter.tokenizer, talks))
    return round(math.exp(float(loss)), 3)


def facts_kept(prompter: Prompter) -> dict[str, float]:
    """Facts kept in expansions of wishes for combinations that training never saw."""
    rng = np.random.RandomState(FRESH % 2**32)
    every = random.Random(0).sample(held_out_descriptions(), HELD_OUT)
    full = [wishes.held_out(description, rng) for description in every]
    part = [wishes.held_out(description, rng, (False, False)) for description in every]
    answers = [prompter.expand(w.words, seed=i)[0] for i, w in enumerate(full)]
    short = [prompter.expand(w.words, seed=i)[0] for i, w in enumerate(part)]
    strange = [wishes.strange_word(rng, held_out=True) for _ in range(HELD_OUT)]
    copied = [prompter.expand(f"a {word}", seed=i)[0] for i, word in enumerate(strange)]
    styled = [prompter.expand(w.words, seed=i, style=STYLES[i % 4])[0] for i, w in enumerate(part[:60])]
    return {
        "perplexity, held-out wishes": perplexity(prompter, full),
        "perplexity, subject alone": perplexity(prompter, part),
        "subject kept": share(
            wishes.names_subject(a, w.description.nouns) for a, w in zip(answers + short, full + part)
        ),
        "style kept": share(wishes.names_style(a, w.description.style) for a, w in zip(answers, full)),
        "place kept": share(wishes.names_place(a, w.description.place) for a, w in zip(answers, full)),
        "a style of the world added": share(any(wishes.names_style(a, s) for s in STYLES) for a in short),
        "a place of the world added": share(any(wishes.names_place(a, p) for p in PLACES) for a in short),
        "style of the system message obeyed": share(wishes.names_style(a, STYLES[i % 4]) for i, a in enumerate(styled)),
        "unknown word kept": share(wishes.names_subject(a, (w,)) for a, w in zip(copied, strange)),
    } | {
        f"distinct of 20 expansions, temperature {t}": round(
            float(np.mean([len(set(prompter.expand(w.words, 20, t, i))) for i, w in enumerate(part[:20])])), 2
        )
        for t in (0.2, 0.7, 1.2)
    }


def tokenizer_of(options: Options) -> PreTrainedTokenizerFast:
    return tokenizer_in(home(options, "prompter"))


@functools.cache
def tokenizer_in(folder: Path) -> PreTrainedTokenizerFast:
    """One tokenizer for training and export, as its file keeps the settings of its last call."""
    return AutoTokenizer.from_pretrained(folder)


def build(options: Options) -> GPT2LMHeadModel:
    """GPT-2's architecture, 1/80 of its smallest size."""
    if options.init:
        return GPT2LMHeadModel.from_pretrained(options.init, dtype=torch.float32)
    if options.fresh or not home(options, "prompter").exists():
        build_tokenizer().save_pretrained(home(options, "prompter"))
    tokenizer = tokenizer_of(options)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=LENGTH, **options.architecture, **ends)
    return GPT2LMHeadModel(config)


def score(model: GPT2LMHeadModel, options: Options) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        export(copy.deepcopy(model), Path(folder), options)
        return facts_kept(Prompter(folder=Path(folder)))


def export(model: GPT2LMHeadModel, folder: Path, options: Options) -> None:
    """The folder that AutoModelForCausalLM and AutoTokenizer load."""
    model.generation_config.max_new_tokens = 48
    save(model, folder)
    tokenizer_of(options).save_pretrained(folder)


RECIPE = Recipe(build, lambda options: Wishes(), Answering, score, export)
