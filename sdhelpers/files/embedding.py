"""Textual-inversion embeddings: files of every layout to {token: vectors}, and into a pipeline.

    [(token, vectors)] = read_embedding("toy.pt").items()          # vectors: [vectors, width]
    ids = add_to_pipeline(pipe, "<toy>", vectors)
    print(load_embedding(pipe, "toy.pt"))                          # both, under the file's name, which it says

Every trouble with a file or a token is an EmbeddingError with one sentence. Built in chapter 9.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

LAYOUTS = ("a1111", "diffusers", "safetensors", "emb_params")  # as chapter 9 writes them
MOST_VECTORS = 75  # what one chunk of a prompt can hold
SDXL_HALVES = ("clip_l", "clip_g")  # for the first text encoder and the second
MADE_FOR = {
    768: "Stable Diffusion 1 and the first text encoder of SDXL",
    1024: "Stable Diffusion 2",
    1280: "the second text encoder of SDXL",
}


class EmbeddingError(ValueError):
    """A file or a token that cannot be used; the message is one sentence for the reader."""


def read_embedding(path: Path | str) -> dict[str, torch.Tensor]:
    """What an embedding file holds: each token with its float32 vectors [vectors, width].

    Where the layout keeps no name (`emb_params`, a bare tensor) the token is the file's name without its
    ending. SDXL's pairs come as "clip_l" and "clip_g". Raises EmbeddingError.
    """
    path = Path(path)
    found = _named(_load(path), path)
    return {token: _checked(vectors, path.name) for token, vectors in found.items()}


def _load(path: Path) -> Any:
    """The file's content, told by its bytes and not by its name; of a pickle nothing but tensors and plain values."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            return load_file(path)
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):  # older A1111 files wrap the tensor in one
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EmbeddingError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "not an allowed global" in str(error):
            raise EmbeddingError(
                f"{path.name} was not opened: it holds more than tensors; look at it with read_checkpoint first."
            ) from error
        raise EmbeddingError(f"{path.name} is damaged or no embedding file.") from error
    except Exception as error:  # a damaged file can end anywhere in the readers
        raise EmbeddingError(f"{path.name} is damaged or no embedding file.") from error


def _named(content: Any, path: Path) -> dict[str, Any]:
    """The tensors by their tokens, whatever the layout."""
    if isinstance(content, torch.Tensor):
        return {path.stem: content}
    if not isinstance(content, dict):
        raise EmbeddingError(f"{path.name} holds no embedding, but a {type(content).__name__}.")
    if "string_to_param" in content:
        inner, token = content["string_to_param"], content.get("name")
        if not isinstance(inner, dict | torch.nn.ParameterDict) or "*" not in inner:
            raise EmbeddingError(f"{path.name} has the A1111 layout without its vectors: string_to_param lacks '*'.")
        return {token if isinstance(token, str) and token else path.stem: inner["*"]}
    if set(content) == {"emb_params"}:
        return {path.stem: content["emb_params"]}
    flat = all(isinstance(value, torch.Tensor) and value.ndim in (1, 2) for value in content.values())
    if not content or not flat or not all(isinstance(token, str) and token for token in content):
        raise EmbeddingError(f"{path.name} is no embedding file: it has none of the layouts {', '.join(LAYOUTS)}.")
    return dict(content)


def _checked(vectors: Any, name: str) -> torch.Tensor:
    """The vectors as float32 [vectors, width], or EmbeddingError when they cannot stand in a prompt."""
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point() or vectors.ndim not in (1, 2):
        raise EmbeddingError(f"{name} is no embedding file: what stands for the token is no list of vectors.")
    vectors = vectors.detach().float().reshape(-1, vectors.shape[-1]).clone()
    if not 1 <= len(vectors) <= MOST_VECTORS or vectors.shape[1] == 0:
        rows, width = vectors.shape
        raise EmbeddingError(f"{name} holds {rows} vectors of {width} numbers; a prompt takes 1 to {MOST_VECTORS}.")
    if not vectors.isfinite().all():
        raise EmbeddingError(f"{name} is damaged: some of its numbers are infinite or no numbers.")
    return vectors


def token_names(token: str, count: int) -> list[str]:
    """The tokens that `count` vectors need, as Diffusers names them: <x>, <x>_1, <x>_2, ..."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def add_to_pipeline(pipe, token: str, vectors: torch.Tensor) -> list[int]:
    """Give a pipeline the token with its vectors [vectors, width]; return the ids of its tokens.

    Of a pipeline's text encoders the one of that width gets them, so that an SDXL pair takes two calls.
    `unload_textual_inversion` takes them out again. Raises EmbeddingError for a width that no encoder has, and
    for a token that cannot be used.
    """
    vectors = _checked(vectors, token)
    tokenizer, encoder = _encoder_of_width(pipe, vectors.shape[1], token)
    names = token_names(token, len(vectors))
    _check_token(tokenizer, token, names)
    first = len(tokenizer)
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(first + len(names), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    table.data[first:] = vectors.to(table.device, table.dtype)
    return list(range(first, first + len(names)))


def load_embedding(pipe, path: Path | str, token: str = "") -> str:
    """Give a pipeline the word of a file and return one sentence: what to write in the prompt.

    The word is the file's name in lower case, as in the A1111 web UI and in ComfyUI, unless `token` is another. The
    sentence gives the name inside where that differs. SDXL's two halves get one word. Raises EmbeddingError.
    """
    path, found = Path(path), read_embedding(path)
    if len(found) > 1 and set(found) != set(SDXL_HALVES):
        raise EmbeddingError(f"{path.name} holds {len(found)} words: give them one by one to add_to_pipeline.")
    token, halves = token or path.stem.lower(), list(found.values())
    for vectors in halves:  # all halves fit, or nothing is changed
        tokenizer, _ = _encoder_of_width(pipe, vectors.shape[1], token)
        _check_token(tokenizer, token, token_names(token, len(vectors)))
    counts = {len(add_to_pipeline(pipe, token, vectors)) for vectors in halves}
    vectors = f"{' and '.join(map(str, sorted(counts)))} vector{'s' * (counts != {1})}"
    said = f"Write {token} in the prompt for the {vectors} of {path.name}"
    [inner, *rest] = found
    differs = not rest and inner not in (token, path.stem)
    return f"{said}, not {inner}, the name inside." if differs else f"{said}."


def _encoder_of_width(pipe, width: int, token: str) -> tuple:
    """The pipeline's tokenizer and text encoder whose vectors have this width."""
    pairs = [(f"tokenizer{n}", f"text_encoder{n}") for n in ("", "_2")]
    found = [tuple(getattr(pipe, name, None) for name in pair) for pair in pairs]
    found = [(tokenizer, encoder) for tokenizer, encoder in found if encoder is not None]
    widths = [encoder.get_input_embeddings().embedding_dim for _, encoder in found]
    if width not in widths:
        origin = f", as for {MADE_FOR[width]}" if width in MADE_FOR else ""
        here = " and ".join(map(str, widths)) or "none"
        raise EmbeddingError(f"The vectors of {token} have {width} numbers{origin}; this model's text encoder: {here}.")
    return found[widths.index(width)]


def _check_token(tokenizer, token: str, names: list[str]) -> None:
    """EmbeddingError for a token that is taken, or that the tokenizer would not find in a prompt."""
    vocabulary = tokenizer.get_vocab()
    taken = [name for name in [*names, f"{token}_1"] if name in vocabulary or f"{name}</w>" in vocabulary]
    if taken:
        raise EmbeddingError(f"The token {taken[0]} is in the vocabulary already: choose another name.")
    if token != token.strip().lower() or not token or any(sign.isspace() for sign in token):
        raise EmbeddingError(f"A token is one word in lower case, such as <toy>, not {token!r}.")
