"""Pocket BLIP-2: sixteen learnt queries ask an image tower what it sees, and a small OPT puts the answers into words.

Li et al., BLIP-2 (2023, arXiv:2301.12597), with the library's own classes. The image tower is captioner_tower.py's,
frozen; the library's has no normalisation before its first layer, so that CLIP's is folded into the embeddings with the
patches' mean deviation (exact but for that). Q-Former and language model are trained together from nothing, on captions
and questions of the drawn world (talks.py).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import processors
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessor,
    CLIPProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

import places
import talks
from bpe import byte_level, home
from export import save
from loop import Training
from parts import captioner_tower
from recipe import Options, Recipe
from scenes_data import FRESH, fresh_scenes
from sdhelpers import models
from sdhelpers.images import to_tensor
from seen import Kept, SeenTalks

TOKENS, LENGTH = 1024, 96
END, PAD, IMAGE = "</s>", "<pad>", "<image>"
QUESTION = "Question: {} Answer:"
HELD = 0.2  # how much the reading of the queries counts beside the answers


def build_tokenizer(nouns: Sequence[str], conversations: int = 5_000) -> PreTrainedTokenizerFast:
    """A small byte-level BPE that begins every text with OPT's mark."""
    spoken = (talks.talk(FRESH + i, nouns).turns for i in range(conversations))
    texts = (f"{QUESTION.format(q.text)} {q.answer}" for turns in spoken for q in turns)
    raw = byte_level(texts, TOKENS, [END, PAD, IMAGE])
    raw.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[IMAGE],
        model_max_length=LENGTH,
        padding_side="left",
    )


def processor_of(tokenizer: PreTrainedTokenizerFast, queries: int) -> Blip2Processor:
    """What makes tensors of pictures and words; the queries' tokens stand before them."""
    clip = CLIPProcessor.from_pretrained(models.POCKET / "clip").image_processor
    images = BlipImageProcessor(
        size={"height": clip.crop_size["height"], "width": clip.crop_size["width"]},
        image_mean=clip.image_mean,
        image_std=clip.image_std,
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=queries)


def prompt_of(turn: talks.Question) -> str:
    """How a question is put; a caption needs none."""
    return "" if turn.kind == "caption" else QUESTION.format(turn.text)


def to_tensors(
    tokenizer: PreTrainedTokenizerFast, spoken: Sequence[talks.Talk], queries: int
) -> tuple[torch.Tensor, ...]:
    """A row for each turn: tokens, attention mask and labels, all [rows, length]; pixels; each row's picture [rows]."""
    image, rows, wanted, owners = [tokenizer.convert_tokens_to_ids(IMAGE)] * queries, [], [], []
    for i, one in enumerate(spoken):
        for turn in one.turns:
            asked = image + tokenizer.encode(prompt_of(turn))
            space = " " if prompt_of(turn) else ""
            answer = tokenizer.encode(f"{space}{turn.answer}{END}", add_special_tokens=False)
            rows.append(asked + answer)
            wanted.append([-100] * len(asked) + answer)
            owners.append(i)
    return *talks.to_batch(spoken, rows, wanted, tokenizer.pad_token_id), torch.tensor(owners)


class Answering(talks.Answering):
    """The loss of the answers, and of what a linear layer reads off the queries.

    That layer stands for BLIP-2's first stage, in which the queries learn to hold what a picture's text tells before
    any language model reads them; it is not kept.
    """

    def __init__(self, training: Training):
        options = training.options
        tokenizer, self.contents = tokenizer_of(options), talks.Contents(places.words(options.nouns))
        super().__init__(training.device, lambda spoken: self.tensors(tokenizer, spoken, options.queries))

    def tensors(self, tokenizer: PreTrainedTokenizerFast, spoken: Sequence[talks.Talk], queries: int):
        return *to_tensors(tokenizer, spoken, queries), *self.contents.targets([one.truth for one in spoken])

    def loss_of(self, model, tokens, mask, labels, pixels, owners, counts, others):
        """As the library's `forward` reckons it, but that a picture is looked at once for all that is asked of it."""
        queries = model.get_image_features(pixels).qformer_outputs.last_hidden_state
        words = embedded(model, tokens, model.language_projection(queries)[owners])
        said = model.language_model(inputs_embeds=words, attention_mask=mask, labels=labels).loss
        held = self.contents.loss_of(model.contents(queries.flatten(1)), counts, others)
        return said + HELD * held, {"answers": said, "contents": held}


def embedded(model: Blip2ForConditionalGeneration, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The vectors of tokens [rows, length, width], with `seen` [rows, queries, width] in the place of image tokens."""
    words = model.get_input_embeddings()(tokens)
    images = (tokens == model.config.image_token_index)[..., None]
    return words.masked_scatter(images, seen.to(words.dtype))


@torch.no_grad()
def answer(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, spoken: Sequence[talks.Talk], batch: int = 50
) -> list[str]:
    """The model's answer to each conversation's first question."""
    answers = []
    for i in range(0, len(spoken), batch):
        some = spoken[i : i + batch]
        texts = [prompt_of(one.turns[0]) for one in some]
        inputs = processor(images=[one.image for one in some], text=texts, padding=True, return_tensors="pt")
        tokens = model.generate(**inputs.to(model.device), max_new_tokens=40, do_sample=False)
        answers += processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return answers


def tokenizer_of(options: Options) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(home(options, "blip2"))


@torch.no_grad()
def folded(clip: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pocket CLIP's image tower by the names of BLIP-2's, its first normalisation folded in; `pixels` give the mean.

    That normalisation takes a token's mean away, divides by its deviation and weights the rest: but for the deviation
    all of it is linear. The class token is the same for every picture, so that nothing is lost there.
    """
    before, norm, tensors = clip.embeddings, clip.pre_layrnorm, dict(clip.state_dict())
    states = before(pixels)  # [pictures, 1 + patches, width]
    deviation = (states.var(-1, unbiased=False) + norm.eps).sqrt().mean(0)  # a number for each position
    scale = norm.weight / deviation[:, None]  # [1 + patches, width]
    filters = before.patch_embedding.weight
    filters = (filters - filters.mean(0)) * (norm.weight / deviation[1:].mean())[:, None, None, None]
    positions = before.position_embedding.weight
    centred = positions - positions.mean(-1, keepdim=True)
    first = before.class_embedding - before.class_embedding.mean()
    named = {
        "embeddings.class_embedding": (first * scale[0])[None, None],
        "embeddings.position_embedding": (centred * scale + norm.bias)[None],
        "embeddings.patch_embedding.weight": filters,
        "embeddings.patch_embedding.bias": torch.zeros(len(filters)),
    }
    for name, tensor in tensors.items():
        if ".self_attn." in name:
            layer, _, part = name.partition(".self_attn.")
            kind, _, end = part.partition(".")
            if kind == "q_proj":
                three = [tensors[f"{layer}.self_attn.{k}_proj.{end}"] for k in "qkv"]
                named[f"{layer}.self_attn.qkv.{end}"] = torch.cat(three)
            elif kind == "out_proj":
                named[f"{layer}.self_attn.projection.{end}"] = tensor
        elif name.startswith(("encoder.", "post_layernorm.")):
            named[name] = tensor
    return named


def build(options: Options) -> Blip2ForConditionalGeneration:
    """Q-Former and OPT from nothing, with the layer that reads the queries; the tower has looked already (seen.py)."""
    if options.init:
        model = Blip2ForConditionalGeneration.from_pretrained(options.init, dtype=torch.float32)
    else:
        if not home(options, "blip2").exists():
            build_tokenizer(places.words(options.nouns)).save_pretrained(home(options, "blip2"))
        model = Blip2ForConditionalGeneration(configuration(options))
        torch.nn.init.normal_(model.query_tokens, std=0.02)
    model.vision_model = Kept()
    read = options.queries * model.config.qformer_config.hidden_size
    model.contents = torch.nn.Linear(read, talks.Contents(places.words(options.nouns)).width)
    return model


def configuration(options: Options) -> Blip2Config:
    """The sizes of all three parts; the tower has pocket CLIP's."""
    tokenizer, seen = tokenizer_of(options), captioner_tower.configuration()
    shape = {k: getattr(seen, k) for k in ("hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "image_size", "patch_size", "hidden_act", "layer_norm_eps")}  # fmt: skip
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return Blip2Config(
        vision_config=Blip2VisionConfig(**shape, qkv_bias=True).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(tokenizer),
            encoder_hidden_size=seen.hidden_size,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **options.architecture["qformer"],
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            dropout=0.0,
            **ends,
            **options.architecture["opt"],
        ).to_dict(),
        num_query_tokens=options.queries,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )


def tower(options: Options) -> dict[str, torch.Tensor]:
    """The weights of the captioners' image tower, as BLIP-2 names them."""
    pixels = torch.stack([to_tensor(scene.image) for scene in fresh_scenes(64)])
    learnt = captioner_tower.load(options.tower)
    return folded(getattr(learnt, "vision_model", learnt), pixels)


def data(options: Options) -> SeenTalks:
    """Conversations about what the tower has seen."""
    look = Blip2VisionModel(configuration(options).vision_config).eval()
    look.load_state_dict(tower(options))
    nouns = places.words(options.nouns)
    numbers = range(options.first, options.first + options.drawn)
    name = f"blip2-{captioner_tower.name_of(options.tower)}"
    return SeenTalks(numbers, nouns, lambda pixels: look(pixels)[0], name, options.turns, options.scenes)


def with_tower(model: Blip2ForConditionalGeneration, options: Options) -> Blip2ForConditionalGeneration:
    """The model as it is shipped, with its frozen tower."""
    model.vision_model = Blip2VisionModel(model.config.vision_config).requires_grad_(False)
    model.vision_model.load_state_dict(tower(options))
    return model.eval()


def score(model: Blip2ForConditionalGeneration, options: Options) -> dict[str, float]:
    """Fresh pictures, through the tower."""
    model = with_tower(model, options)
    processor = processor_of(tokenizer_of(options), options.queries)
    return talks.accuracy(lambda spoken: answer(model, processor, spoken), places.words(options.nouns))


def export(model: Blip2ForConditionalGeneration, folder: Path, options: Options) -> dict:
    """The folder that `from_pretrained` loads, with its processor."""
    del model.contents
    save(with_tower(model, options), folder)
    processor_of(tokenizer_of(options), options.queries).save_pretrained(folder)
    return {"nouns": places.words(options.nouns)}


RECIPE = Recipe(build, data, Answering, score, export)
