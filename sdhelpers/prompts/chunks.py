"""Prompts of any length, with weights, as the tensors that a pipeline takes: for one text encoder and for two.

    pipe(**encode(pipe, "a (cat:1.3) on a beach, ...", negative_prompt="..."), num_inference_steps=20)

Works with every pipeline of Diffusers that takes `prompt_embeds` and listens to CLIP: text-to-image,
img2img, inpainting, ControlNet, and the same of SDXL. Built in chapter 10.
"""

import dataclasses
from collections.abc import Sequence

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdhelpers.compat import final_norm, run_device
from sdhelpers.prompts.grammar import PromptError
from sdhelpers.prompts.readings import Piece, Reading, read_prompt


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What the text encoder reads at once: start, up to 75 tokens, end, padding; and a weight for each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    length: int  # of the prompt's own tokens, which follow the start

    @property
    def tokens(self) -> list[tuple[int, float]]:
        """The prompt's own tokens and their weights."""
        return list(zip(self.ids, self.weights))[1 : 1 + self.length]


def to_chunks(tokenizer, reading: Reading) -> list[Chunk]:
    """Cut a reading into chunks of 75 tokens; each BREAK ends one early. There is always at least one chunk."""
    size = tokenizer.model_max_length - 2  # 75 for CLIP
    chunks: list[Chunk] = []
    for i, pieces in enumerate(reading):
        tokens = [(token, piece.weight) for piece in pieces for token in token_ids(tokenizer, piece.text)]
        nothing_left = i == len(reading) - 1 and chunks and not tokens
        for start in [] if nothing_left else range(0, max(len(tokens), 1), size):
            chunks.append(fill(tokenizer, tokens[start : start + size]))
    return chunks


def token_ids(tokenizer, text: str) -> list[int]:
    """The tokens of a text, however many, without start and end."""
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def fill(tokenizer, tokens: Sequence[tuple[int, float]]) -> Chunk:
    """Put start, end and padding around at most 75 tokens; what is added has weight 1."""
    padding = tokenizer.model_max_length - 2 - len(tokens)
    ids = (tokenizer.bos_token_id, *(token for token, _ in tokens), tokenizer.eos_token_id)
    weights = (1.0, *(weight for _, weight in tokens), 1.0)
    return Chunk(ids + (tokenizer.pad_token_id,) * padding, weights + (1.0,) * padding, len(tokens))


def apply_weights(embeddings: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply each token's vector by its weight and give every chunk its mean back.

    `embeddings` is [chunks, 77, width], `weights` [chunks, 77]. Where a negative weight leaves a mean near
    zero or of the other sign, there is nothing to scale by, and the chunk stays as multiplied.
    """
    weighted = embeddings.float() * weights[..., None]
    restore = embeddings.float().mean((1, 2), keepdim=True) / weighted.mean((1, 2), keepdim=True)  # [chunks, 1, 1]
    usable = (restore > 0.1) & (restore < 10)
    weighted = torch.where(usable, weighted * restore, weighted)
    plain = (weights == 1).all(1)[:, None, None]  # there the encoder's own numbers stay, to the last digit
    return torch.where(plain, embeddings, weighted.to(embeddings.dtype))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prompt's vectors [1, 77 * chunks, width], and SDXL's pooled vector [1, width], else None."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


def text_encoders(pipe) -> list[tuple]:
    """The pipeline's (tokenizer, text encoder) pairs. Raises PromptError where they are not CLIP's."""
    names = [(f"tokenizer{n}", f"text_encoder{n}") for n in ("", "_2", "_3")]
    pairs = [tuple(getattr(pipe, name, None) for name in pair) for pair in names]
    pairs = [pair for pair in pairs if pair[1] is not None]
    clip = all(isinstance(encoder, CLIPTextModel | CLIPTextModelWithProjection) for _, encoder in pairs)
    if not pairs or not clip or not hasattr(pipe, "unet"):
        raise PromptError(f"{type(pipe).__name__} does not listen to CLIP alone: give it the prompt itself.")
    return pairs


def convert(pipe, tokenizer, reading: Reading) -> Reading:
    """Write textual-inversion words of several vectors (chapter 9) as the tokens that they stand for."""
    if not isinstance(pipe, TextualInversionLoaderMixin):
        return reading
    return tuple(
        tuple(Piece(pipe.maybe_convert_prompt(text, tokenizer), weight) for text, weight in pieces)
        for pieces in reading
    )


def count_chunks(pipe, readings: Sequence[Reading]) -> int:
    """How many chunks the longest of some readings needs."""
    tokenizers = [tokenizer for tokenizer, _ in text_encoders(pipe)]
    return max(len(to_chunks(t, convert(pipe, t, reading))) for t in tokenizers for reading in readings)


@torch.no_grad()
def encode_reading(pipe, reading: Reading, count: int, clip_skip: int | None = None) -> Encoded:
    """A reading in `count` chunks, the last ones empty; the vectors of two text encoders stand side by side.

    SDXL's pooled vector is that of the second encoder for the first chunk, without weights.
    """
    device, parts, pooled = run_device(pipe), [], None
    for tokenizer, encoder in text_encoders(pipe):
        chunks = to_chunks(tokenizer, convert(pipe, tokenizer, reading))
        chunks += [fill(tokenizer, [])] * (count - len(chunks))
        ids = torch.tensor([chunk.ids for chunk in chunks], device=device)  # [chunks, 77]
        weights = torch.tensor([chunk.weights for chunk in chunks], device=device)  # [chunks, 77]
        output = encoder(ids, output_hidden_states=True)
        if hasattr(pipe, "text_encoder_2"):
            vectors = output.hidden_states[-2 - (clip_skip or 0)]  # [chunks, 77, width]
            pooled = output[0][:1]
        elif clip_skip is None:
            vectors = output[0]
        else:
            vectors = final_norm(encoder)(output.hidden_states[-1 - clip_skip])
        parts.append(apply_weights(vectors, weights).flatten(0, 1)[None])  # [1, 77 * chunks, width]
    return Encoded(torch.cat(parts, dim=2), pooled)


def encode_negative(pipe, reading: Reading | None, like: Encoded) -> Encoded:
    """The negative reading, as long as the prompt's; for None what the pipeline would take, empty text or zeros."""
    if reading is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
        return Encoded(torch.zeros_like(like.embeds), torch.zeros_like(like.pooled))
    count = like.embeds.shape[1] // text_encoders(pipe)[0][0].model_max_length
    return encode_reading(pipe, reading or ((),), count)


def arguments(prompt: Encoded, negative: Encoded) -> dict[str, torch.Tensor]:
    """The tensors under the names of a pipeline's arguments."""
    named = {"prompt_embeds": prompt.embeds, "negative_prompt_embeds": negative.embeds}
    if prompt.pooled is not None:
        named |= {"pooled_prompt_embeds": prompt.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    return named


def encode(
    pipe, prompt: str, negative_prompt: str | None = None, clip_skip: int | None = None
) -> dict[str, torch.Tensor]:
    """A prompt and a negative prompt of any length, with weights and BREAK, as arguments for `pipe(**...)`.

    Both have the same number of chunks. For prompts of one chunk without weights the numbers are those of the
    pipeline's own `encode_prompt`, which gives `clip_skip` to the prompt alone. Raises PromptError.
    """
    positive = read_prompt(prompt)
    negative = None if negative_prompt is None else read_prompt(negative_prompt)
    count = count_chunks(pipe, [positive, negative or ((),)])
    encoded = encode_reading(pipe, positive, count, clip_skip)
    return arguments(encoded, encode_negative(pipe, negative, encoded))
