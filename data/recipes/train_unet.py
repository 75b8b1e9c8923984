"""Train the pocket UNet: the noise in 16x16x4 latents, given a time step and 77 token embeddings.

    python data/recipes/train_unet.py --minutes 60

Stable Diffusion 1.5's own recipe in small: scaled-linear betas from 0.00085 to 0.012 over 1000 steps,
epsilon prediction, one caption in ten left empty, the text tower frozen. Most time steps fall where the picture
is decided, weights by the signal-to-noise ratio and averaged weights make it converge sooner. So that two objects
do not run together, each noun's cross-attention is asked to lie on its own object (the token loss of TokenCompose,
Wang et al. 2024). Needs the latents (encode_latents.py) and pocket CLIP. Learns the nouns of nouns.txt, which may
be fewer than the world has.

`--init FOLDER` goes on from given weights; where their last up block has no attention yet, it is put in so that
nothing changes at first.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch.utils.data import Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from loop import RECIPES, RUNS, Training, arguments
from sdhelpers import world

CONFIG = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    cross_attention_dim=128,
    attention_head_dim=4,
    block_out_channels=(128, 192, 256),
    layers_per_block=1,
    norm_num_groups=32,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
EMPTY_CAPTIONS = 0.1
GAMMA = 5.0
EVEN = 0.3  # part of a batch whose time steps are spread evenly; the rest is drawn by its signal-to-noise ratio
LOG_SNR = (1.2, 1.8)  # mean and deviation of the logarithm of that ratio
LARGEST_WEIGHT = 20.0
GROUNDING = 0.02  # how much the attention's place counts beside the noise
GROUNDED_SIDES = (16, 8)  # attention of so many pixels a side is asked


class Latents(Dataset):
    """Latents by number, over and over in a new order each time; each time round with a new caption.

    The files' scene numbers must have been drawn with the same `nouns`, in the same order.
    """

    def __init__(self, folder: Path, nouns: Sequence[str]):
        files = sorted(p for p in folder.glob("*.npz") if ".part" not in p.name)
        if not files:
            raise SystemExit(f"{folder} holds no latents: run data/recipes/encode_latents.py first.")
        parts = [np.load(path) for path in files]
        self.arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].files}
        self.descriptions = [world.describe(np.random.RandomState(i), nouns) for i in self.arrays["numbers"]]
        self.orders: dict[int, np.ndarray] = {}

    def index(self, number: int) -> int:
        """Which of the scenes sample `number` is."""
        epoch, position = divmod(number, len(self.descriptions))
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(len(self.descriptions))}
        return self.orders[epoch][position]

    def __getitem__(self, number: int):
        index = self.index(number)
        wording = np.random.RandomState((1_000_003 * number + 17) % 2**32)
        empty = wording.random_sample() < EMPTY_CAPTIONS
        caption = "" if empty else world.write_caption(self.descriptions[index], wording)
        return torch.from_numpy(self.arrays["latents"][index].astype(np.float32)), caption


class GroundedLatents(Latents):
    """What `Latents` gives, with the nouns and what they cover: masks [2, 16, 16] from 0 to 1."""

    def __getitem__(self, number: int):
        index = self.index(number)
        masks = torch.from_numpy(self.arrays["masks"][index].astype(np.float32) / 255)
        return *super().__getitem__(number), self.descriptions[index].nouns, masks


def collate(samples):
    latents, captions = zip(*samples)
    return torch.stack(latents), list(captions)


def collate_grounded(samples):
    latents, captions, nouns, masks = zip(*samples)
    return torch.stack(latents), list(captions), list(nouns), torch.stack(masks)


class Conditioning:
    """The frozen half of the training: texts to embeddings, latents to noisy latents, errors to a loss."""

    def __init__(self, tokenizer, text_encoder, device: torch.device):
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.text_encoder = CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32).to(device).eval()
        self.scheduler = DDPMScheduler(**NOISE)
        self.snr = compute_snr(self.scheduler, torch.arange(NOISE["num_train_timesteps"])).to(device)
        self.device = device

    def prepare(self, batch):
        """A batch of latents and captions as what `loss_of` takes."""
        latents, captions = batch
        latents = latents.to(self.device, memory_format=torch.channels_last)
        text_embeddings = self.embed(captions)
        noise = torch.randn_like(latents)
        timesteps, weights = self.time_steps(len(latents))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return noisy, noise, timesteps, text_embeddings, weights

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Token embeddings [batch, 77, 128]."""
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state

    def time_steps(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Time steps for a batch, and what each one's error counts.

        The first `EVEN` part lies evenly over all steps: where the signal is the stronger part, min-SNR weights
        (Hang et al. 2023); where the noise is, plain epsilon weights all but forget the question of what the picture
        shows as a whole, so they grow by 1/sqrt(SNR). The others have log SNR as `LOG_SNR` says, with the weights
        of a loss on the velocity, 1 + 1/SNR: the smaller the noise, the better it must be known.
        """
        even = even_part(count)
        spread = self._evenly(even)
        steps = len(self.snr)
        snr = self.snr[(spread * steps).long()]
        weights = snr.clamp(max=GAMMA) / snr * snr.clamp(max=1).rsqrt()
        mean, deviation = LOG_SNR
        wanted = mean + deviation * torch.special.ndtri(self._evenly(count - even).clamp(1e-4, 1 - 1e-4))
        drawn = (steps - torch.searchsorted(self.snr.log().flip(0).contiguous(), wanted)).clamp(0, steps - 1)
        drawn_weights = (1 + 1 / self.snr[drawn]).clamp(max=LARGEST_WEIGHT)
        return torch.cat([(spread * steps).long(), drawn]), torch.cat([weights, drawn_weights])

    def _evenly(self, count: int) -> torch.Tensor:
        """Numbers from 0 to 1, evenly spaced from a random first."""
        spread = torch.rand((), device=self.device) + torch.arange(count, device=self.device) / max(1, count)
        return spread % 1

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights):
        """Mean square error of the predicted noise, weighted as `time_steps` says."""
        predicted = unet(noisy, timesteps, text_embeddings).sample.float()
        each = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        return (weights * each).mean(), {"plain_mse": each[: even_part(len(each))].mean()}


def even_part(count: int) -> int:
    """How many of a batch have evenly spread time steps; they come first."""
    return max(1, round(EVEN * count))


class WatchedAttention:
    """Cross-attention by hand, which keeps its probabilities: [batch, heads, pixels, tokens]."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, temb=None):
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key = heads(attn.to_q(hidden_states)), heads(attn.to_k(encoder_hidden_states))
        self.probabilities = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        mixed = self.probabilities @ heads(attn.to_v(encoder_hidden_states)).to(self.probabilities)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


class Grounding:
    """Asks each noun's cross-attention to lie on the noun's own object (Wang et al. 2024, TokenCompose).

    Except in the first block, which cannot know yet what is where.
    """

    def __init__(self, unet: UNet2DConditionModel, conditioning: Conditioning):
        self.conditioning = conditioning
        self.watched = []
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.set_processor(WatchedAttention())
                if not name.startswith("down_blocks.0"):
                    self.watched.append(module.processor)

    def prepare(self, batch):
        """What `Conditioning.prepare` gives, with each noun's tokens [batch, 2, 77] and masks [batch, 2, 16, 16]."""
        latents, captions, nouns, masks = batch
        tokens = torch.zeros(len(captions), 2, 77)
        for i, caption in enumerate(captions):
            for j, noun in enumerate(nouns[i]):
                found = re.search(rf"\b{noun}\b", caption)  # whole words: a car is not in a cartoon
                if found:
                    before, within = self._count(caption[: found.start()]), self._count(noun)
                    tokens[i, j, 1 + before : 1 + before + within] = 1 / within
        device = self.conditioning.device
        return *self.conditioning.prepare((latents, captions)), tokens.to(device), masks.to(device)

    def _count(self, text: str) -> int:
        return len(self.conditioning.tokenizer(text).input_ids) - 2

    def loss_of(self, unet, noisy, noise, timesteps, text_embeddings, weights, tokens, masks):
        """The loss of the noise, and the square of each noun's share of attention that lies beside its object."""
        loss, metrics = self.conditioning.loss_of(unet, noisy, noise, timesteps, text_embeddings, weights)
        counted = (tokens.sum(-1) > 0) & (masks.sum((-1, -2)) > 0)  # [batch, 2]
        pixels = {side: (F.adaptive_max_pool2d(masks, side) > 0).flatten(2).float() for side in GROUNDED_SIDES}
        beside = []
        for attention in self.watched:
            probabilities = attention.probabilities  # [batch, heads, pixels, tokens]
            side = math.isqrt(probabilities.shape[2])
            if side in GROUNDED_SIDES:
                places = torch.einsum("bpt,bnt->bnp", probabilities.float().sum(1), tokens)
                beside.append(1 - (places * pixels[side]).sum(-1) / places.sum(-1).clamp(min=1e-6))
        beside = torch.stack(beside)[:, counted]
        return loss + GROUNDING * (beside**2).mean(), {**metrics, "attention_beside": beside.mean()}


def begin(folder: Path, up_block_types: Sequence[str] = CONFIG["up_block_types"]) -> UNet2DConditionModel:
    """The weights in `folder`; attention that `up_block_types` has and they lack adds nothing until it is trained."""
    before = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
    unet = UNet2DConditionModel.from_config({**before.config, "up_block_types": list(up_block_types)})
    lacking, unknown = unet.load_state_dict(before.state_dict(), strict=False)
    if unknown or not all(".attentions." in name for name in lacking):
        raise SystemExit(f"{folder} does not fit this recipe's UNet: give --init a UNet that train_unet.py exported.")
    for name, module in unet.named_modules():
        if f"{name}.proj_out.weight" in lacking:
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    return unet


def main() -> None:
    options = arguments(
        __doc__,
        steps=24_000,
        batch=64,
        lr=4e-4,
        ema=0.9995,
        latents="latents",
        clip=str(RUNS / "clip" / "export"),
        nouns="nouns.txt",
    )
    nouns = (RECIPES / options.nouns).read_text(encoding="utf-8").split("\n")[:-1]
    torch.manual_seed(0)
    unet = begin(options.init) if options.init else UNet2DConditionModel(**CONFIG)
    training = Training("unet", unet, options)
    conditioning = Conditioning(options.clip, options.clip, training.device)
    grounding = Grounding(unet, conditioning)
    latents = GroundedLatents(RUNS / options.latents, nouns)
    training.run(latents, grounding.prepare, grounding.loss_of, collate_grounded)
    facts = {**training.facts(), "recipe": "data/recipes/train_unet.py", "nouns": nouns}
    for name, average in {"export": training.ema, "export_long": training.long_ema}.items():
        if average:
            unet = training.averaged_model(average)
            unet.half().save_pretrained(training.folder / name, max_shard_size="14MB")
            (training.folder / name / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
