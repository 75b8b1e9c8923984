"""Pocket LLaVA: a tower's patches as words of a small Llama, which answers questions about a picture.

Liu et al., Visual Instruction Tuning (2023, arXiv:2304.08485), with the library's own classes: the image tower stays
as it is, two linear layers make its patches into token vectors, and the language model reads them before the question.
Projector and language model are trained together from nothing, on conversations about the drawn world (talks.py); the
repository ships these two alone.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import places
import talks
from bpe import byte_level, home
from export import save_changed
from loop import Training
from parts import captioner_tower
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import models
from seen import Kept, SeenTalks

TOKENS, LENGTH = 1024, 192
END, IMAGE = "</s>", "<image>"
HELD = 0.2  # how much the reading of the picture counts beside the answers
TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{{ '</s>' if message.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TRAINED = ("model.language_model.", "model.multi_modal_projector.", "lm_head.")


def build_tokenizer(nouns: Sequence[str], conversations: int = 5_000) -> PreTrainedTokenizerFast:
    """A small byte-level BPE with LLaVA's two special tokens and its way to write a conversation."""
    spoken = (talks.talk(FRESH + i, nouns).turns for i in range(conversations))
    texts = (f"USER: {q.text} ASSISTANT: {q.answer}" for turns in spoken for q in turns)
    raw = byte_level(texts, TOKENS, [END, IMAGE])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=END,
        pad_token=END,
        extra_special_tokens=[IMAGE],
        chat_template=TEMPLATE,
        model_max_length=LENGTH,
        padding_side="left",
    )


def processor_of(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What makes tensors of pictures and words; the tower's patches stand for one image token each."""
    return LlavaProcessor(
        CLIPImageProcessor.from_pretrained(models.POCKET / "clip"),
        tokenizer,
        patch_size=captioner_tower.configuration().patch_size,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )


def patches() -> int:
    """How many tokens a picture becomes."""
    seen = captioner_tower.configuration()
    return (seen.image_size // seen.patch_size) ** 2


def to_tensors(tokenizer: PreTrainedTokenizerFast, spoken: Sequence[talks.Talk]) -> tuple[torch.Tensor, ...]:
    """Tokens, attention mask and labels, all [batch, length], and pixels; only answers are to be learnt."""
    rows, wanted = [], []
    for one in spoken:
        ids, labels = [], []
        for i, turn in enumerate(one.turns):
            picture = IMAGE * patches() + "\n" if i == 0 else ""
            asked = tokenizer.encode(f"USER: {picture}{turn.text} ASSISTANT:", add_special_tokens=False)
            answer = tokenizer.encode(f" {turn.answer}{END}", add_special_tokens=False)
            ids += asked + answer
            labels += [-100] * len(asked) + answer
        rows.append(ids)
        wanted.append(labels)
    return talks.to_batch(spoken, rows, wanted, tokenizer.pad_token_id)


class Answering(talks.Answering):
    """The loss of the answers, and of what a linear layer reads off the picture's tokens half-way up.

    That layer makes the language model look before it speaks; it is not kept.
    """

    def __init__(self, training: Training):
        options = training.options
        tokenizer, self.contents = tokenizer_of(options), talks.Contents(places.words(options.nouns))
        super().__init__(training.device, lambda spoken: self.tensors(tokenizer, spoken))

    def tensors(self, tokenizer: PreTrainedTokenizerFast, spoken: Sequence[talks.Talk]):
        return *to_tensors(tokenizer, spoken), *self.contents.targets([one.truth for one in spoken])

    def loss_of(self, model, tokens, mask, labels, pixels, counts, others):
        said = model(
            input_ids=tokens, attention_mask=mask, labels=labels, pixel_values=pixels, output_hidden_states=True
        )
        half = said.hidden_states[len(said.hidden_states) // 2]  # [batch, length, width]
        images = half[tokens == model.config.image_token_index].unflatten(0, (len(tokens), -1))
        held = self.contents.loss_of(model.contents(torch.cat([images.mean(1), images.amax(1)], -1)), counts, others)
        return said.loss + HELD * held, {"answers": said.loss, "contents": held}


@torch.no_grad()
def answer(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, spoken: Sequence[talks.Talk], batch: int = 50
) -> list[str]:
    """The model's answer to each conversation's first question."""
    answers = []
    for i in range(0, len(spoken), batch):
        some = spoken[i : i + batch]
        asked = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one.turns[0].text}]}]
            for one in some
        ]
        text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=[one.image for one in some], text=text, padding=True, return_tensors="pt")
        tokens = model.generate(**inputs.to(model.device), max_new_tokens=40, do_sample=False)
        answers += processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return answers


def score(model: LlavaForConditionalGeneration, options: Options) -> dict[str, float]:
    """Fresh pictures, through the tower."""
    model = with_tower(model, options)
    processor = processor_of(tokenizer_of(options))
    return talks.accuracy(lambda spoken: answer(model, processor, spoken), places.words(options.nouns))


def tokenizer_of(options: Options) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(home(options, "llava"))


def build(options: Options) -> LlavaForConditionalGeneration:
    """A Llama of five million parameters behind the image tower of captioner_tower.py, which stays frozen."""
    if options.init:
        model = LlavaForConditionalGeneration.from_pretrained(options.init, dtype=torch.float32)
    else:
        if not home(options, "llava").exists():
            build_tokenizer(places.words(options.nouns)).save_pretrained(home(options, "llava"))
        tokenizer = tokenizer_of(options)
        text = LlamaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LENGTH,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
            **options.architecture,
        )
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=captioner_tower.configuration(),
                text_config=text,
                image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
                image_seq_length=patches(),
                tie_word_embeddings=True,
            )
        )
    model.model.vision_tower = Kept()
    read = 2 * model.config.text_config.hidden_size
    model.contents = torch.nn.Linear(read, talks.Contents(places.words(options.nouns)).width)
    return model


def tower(options: Options) -> torch.nn.Module:
    """The captioners' image tower, in the class that LLaVA gives it, which some versions wrap in a model of its own."""
    found, learnt = AutoModel.from_config(captioner_tower.configuration()), captioner_tower.load(options.tower)
    getattr(found, "vision_model", found).load_state_dict(getattr(learnt, "vision_model", learnt).state_dict())
    return found.eval()


def data(options: Options) -> SeenTalks:
    """Conversations about what the tower has seen, in the layer that LLaVA takes."""
    look, layer = tower(options), LlavaConfig().vision_feature_layer
    nouns = places.words(options.nouns)

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        return look(pixels, output_hidden_states=True).hidden_states[layer]

    numbers = range(options.first, options.first + options.drawn)
    name = f"llava-{captioner_tower.name_of(options.tower)}"
    return SeenTalks(numbers, nouns, seen, name, options.turns, options.scenes)


def with_tower(model: LlavaForConditionalGeneration, options: Options) -> LlavaForConditionalGeneration:
    """The model as it is put together, with its frozen tower."""
    model.model.vision_tower = tower(options).requires_grad_(False)
    return model.eval()


def export(model: LlavaForConditionalGeneration, folder: Path, options: Options) -> dict:
    """Projector, language model, configurations, processor; of the tower what pocket CLIP's lacks."""
    save_changed(model, folder, TRAINED)
    place = "model.vision_tower." + ("vision_model." if hasattr(tower(options), "vision_model") else "")
    factors = load_file(Path(options.tower) / captioner_tower.FILE)
    save_file({place + name: tensor for name, tensor in factors.items()}, folder / captioner_tower.FILE)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor_of(tokenizer_of(options)).save_pretrained(folder)
    return {"nouns": places.words(options.nouns)}


RECIPE = Recipe(build, data, Answering, score, export)
