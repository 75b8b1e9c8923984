"""A language model that turns a few words into a whole prompt.

    prompter = Prompter(tier)
    prompter.expand("a kitty at the seaside", n=4, temperature=0.7, seed=1234)

The pocket tier has a small GPT-2 trained on the world's captions; the full tier takes any chat model. Built in
chapter 17.
"""

import re
from pathlib import Path

import huggingface_hub
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdhelpers import models
from sdhelpers.device import best_device, best_dtype
from sdhelpers.models.hub import download
from sdhelpers.models.registry import HubModel, ModelError

SYSTEM = (
    "Turn the words into one prompt for an image model: style, subject, place, quality. Answer with the prompt only."
)
LONGEST = 48  # tokens that the words may have
MOST = 64  # expansions a call
CONTROL = re.compile(r"<\|[^|>]*\|>")
WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


class PrompterError(ValueError):
    """Words or settings from which no prompt can be made; the message is for the reader."""


def messages(words: str, style: str | None = None) -> list[dict[str, str]]:
    """The conversation that asks for a prompt; `style` fixes the style in the system message. Built in chapter 17."""
    system = f"{SYSTEM} The style is: {style}." if style else SYSTEM
    return [{"role": "system", "content": system}, {"role": "user", "content": words}]


def published_chat_model(repository: str) -> HubModel:
    """What the hub says of a chat model: newest revision, sizes, licence. Raises ModelError when it does not answer."""
    try:
        info = huggingface_hub.HfApi().model_info(repository, files_metadata=True)
    except Exception as error:
        raise ModelError(
            f"The hub tells nothing about {repository!r} ({type(error).__name__}): check the id and the connection."
        ) from error
    weights = sum(f.size or 0 for f in info.siblings if f.rfilename.endswith(".safetensors"))
    if not weights:
        raise ModelError(f"{repository} has no .safetensors weights: choose another chat model.")
    parameters = info.safetensors.total if info.safetensors else weights // 2
    licence = (info.card_data or {}).get("license") or "not stated"
    return HubModel(repository, info.sha, WEIGHTS, weights + 20_000_000, parameters, str(licence))


def locate_chat_model(tier: str = "pocket", chat_model: str | None = None) -> Path:
    """The folder of the registry's model, or of any chat model: a folder on this computer or an id of the hub.

    Sizes are checked before a download. Raises ModelError with one sentence.
    """
    if chat_model is None:
        return models.locate("prompter", tier)
    folder = Path(chat_model).expanduser()
    return folder if folder.is_dir() else download(published_chat_model(chat_model))


class Prompter:
    """A chat model with its tokenizer, ready to expand words; `folder` is what `locate_chat_model` gives."""

    def __init__(self, tier: str = "pocket", folder: Path | None = None):
        folder = folder or locate_chat_model(tier)
        self.device = best_device()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if self.tokenizer.chat_template is None:
            raise PrompterError(f"{folder.name} has no chat template: it is no chat model.")
        dtype = best_dtype(self.device)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self.device).eval()

    def check(self, words: str, n: int, temperature: float) -> str:
        """The words in one line, or PrompterError with one sentence."""
        words = " ".join(words.encode("utf-8", "ignore").decode().split())  # without halves of characters
        if not words:
            raise PrompterError("There are no words to expand: say at least what is to be seen.")
        if CONTROL.search(words):
            raise PrompterError("The words hold a control token such as <|end|>: leave it out.")
        length = len(self.tokenizer(words, add_special_tokens=False, verbose=False).input_ids)
        if length > LONGEST:
            raise PrompterError(f"The words are {length} tokens long and at most {LONGEST} can be expanded: say less.")
        if not 0 < temperature <= 5:
            raise PrompterError(f"The temperature must be above 0 and at most 5, not {temperature}.")
        if not 1 <= n <= MOST:
            raise PrompterError(f"The number of prompts must be from 1 to {MOST}, not {n}.")
        return words

    @torch.no_grad()
    def expand(
        self, words: str, n: int = 1, temperature: float = 0.7, seed: int = 0, style: str | None = None
    ) -> list[str]:
        """`n` prompts for the words; the same seed gives the same prompts. Built in chapter 17.

        Raises PrompterError for empty or too long words, a temperature or a number out of range, or an empty answer.
        """
        words = self.check(words, n, temperature)
        inputs = self.tokenizer.apply_chat_template(
            messages(words, style), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tokens = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                num_return_sequences=n,
                max_new_tokens=60,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        answers = self.tokenizer.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        prompts = [" ".join(answer.split()) for answer in answers]
        if not all(prompts):
            raise PrompterError(f"The language model gave an empty answer to {words!r}: try another seed.")
        return prompts
