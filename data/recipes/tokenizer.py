"""CLIP's own byte-pair tokenizer, built from the merge list that the package open-clip-torch carries (MIT)."""

import gzip
from importlib.metadata import distribution
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MERGES = 48_894  # 49408 tokens less 2 x 256 bytes and the two special ones


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of every Stable Diffusion 1.x: 49,408 tokens, at most 77 a prompt."""
    path = distribution("open_clip_torch").locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(Path(str(path)).read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
