"""The small tokenizers of the language models, made from nothing but what they are to read and write."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import places
from recipe import Options


def byte_level(texts: Iterable[str], size: int, special: Sequence[str], prefix_space: bool = False) -> Tokenizer:
    """A byte-level BPE in lower case, as GPT-2's but with `size` tokens; the `special` ones come first."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet)
    raw.train_from_iterator(texts, trainer)
    return raw


def home(options: Options, name: str) -> Path:
    """Where a recipe's tokenizer is: with the weights that training begins with, or in the run's folder."""
    return Path(options.init) if options.init else places.RUNS / (options.run or name) / "tokenizer"
