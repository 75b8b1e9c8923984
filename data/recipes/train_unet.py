"""Train the pocket UNet: the noise in 16x16x4 latents, given a time step and 77 token embeddings.

    python data/recipes/train_unet.py --minutes 60

Stable Diffusion 1.5's own recipe in small: scaled-linear betas from 0.00085 to 0.012 over 1000 steps,
epsilon prediction, one caption in ten left empty, the text tower frozen. Weights by the signal-to-noise
ratio and averaged weights make it converge sooner. Needs the latents (encode_latents.py) and pocket CLIP. Learns to
draw the nouns of nouns.txt, which may be fewer than the world has.
"""

import json

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
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
EMPTY_CAPTIONS = 0.1
PAIRS = 3
GAMMA = 5.0


class Latents(Dataset):
    """Latents by number, over and over in a new order each time; each time round with a new caption.

    Scenes of two objects are rare and hard: each comes `PAIRS` times in a round.
    """

    def __init__(self, folder):
        files = sorted(p for p in folder.glob("*.npz") if ".part" not in p.name)
        if not files:
            raise SystemExit(f"{folder} holds no latents: run data/recipes/encode_latents.py first.")
        parts = [np.load(p) for p in files]
        self.latents = np.concatenate([part["latents"] for part in parts])
        self.descriptions = [world.describe(np.random.RandomState(i)) for part in parts for i in part["numbers"]]
        times = [PAIRS if len(d.nouns) == 2 else 1 for d in self.descriptions]
        self.round = np.repeat(np.arange(len(times)), times)
        self.orders: dict[int, np.ndarray] = {}

    def _index(self, number: int) -> int:
        epoch, position = divmod(number, len(self.round))
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(self.round)}
        return self.orders[epoch][position]

    def __getitem__(self, number: int):
        index = self._index(number)
        description = self.descriptions[index]
        wording = np.random.RandomState((1_000_003 * number + 17) % 2**32)
        caption = "" if wording.random_sample() < EMPTY_CAPTIONS else world.write_caption(description, wording)
        return torch.from_numpy(self.latents[index].astype(np.float32)), caption


def collate(samples):
    latents, captions = zip(*samples)
    return torch.stack(latents), list(captions)


class Conditioning:
    """The frozen half of the training: texts to embeddings, latents to noisy latents, errors to a loss."""

    def __init__(self, tokenizer, text_encoder, device: torch.device):
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.text_encoder = CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32).to(device).eval()
        self.scheduler = DDPMScheduler(**NOISE)
        self.device = device

    def prepare(self, batch):
        """A batch of latents and captions as what `loss_of` takes."""
        latents, captions = batch
        latents = latents.to(self.device, memory_format=torch.channels_last)
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        text_embeddings = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state  # [batch, 77, 128]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        snr = compute_snr(self.scheduler, timesteps)
        weights = snr.clamp(max=GAMMA) / snr * snr.clamp(max=1).rsqrt()
        return noisy, noise, timesteps, text_embeddings, weights

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights):
        """Mean square error of the predicted noise, weighted as in `prepare`.

        Where the signal is the stronger part, min-SNR weights (Hang et al. 2023). Where the noise is, plain
        epsilon weights all but forget the question of what the picture shows as a whole; they grow by 1/sqrt(SNR).
        """
        predicted = unet(noisy, timesteps, text_embeddings).sample.float()
        each = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        return (weights * each).mean(), {"plain_mse": each.mean()}


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
    nouns = (RECIPES / options.nouns).read_text().split("\n")[:-1]
    torch.manual_seed(0)
    if options.init:
        unet = UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)
    else:
        unet = UNet2DConditionModel(**CONFIG)
    training = Training("unet", unet, options)
    conditioning = Conditioning(options.clip, options.clip, training.device)
    training.run(Latents(RUNS / options.latents), conditioning.prepare, conditioning.loss_of, collate)
    unet = training.averaged_model()
    export = training.folder / "export"
    unet.half().save_pretrained(export, max_shard_size="14MB")
    facts = {**training.facts(), "recipe": "data/recipes/train_unet.py", "nouns": nouns}
    (export / "facts.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
