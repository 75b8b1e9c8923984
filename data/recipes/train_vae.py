"""Train the pocket VAE: 128x128 pixels to 16x16x4 latents and back.

    python data/recipes/train_vae.py --minutes 60      # as often as you like; it goes on where it stopped
    python data/recipes/train_vae.py --decoder-only --init data/recipes/runs/vae/export --run vae_decoder

The loss is L1 on pixels and on their differences (for crisp edges), a mean square (for PSNR), and a
small KL term that keeps the latents near a unit normal. A quarter of the batches mirror the latents
and ask for the mirrored picture, which makes the latent space simpler for the UNet to learn.

`--decoder-only` trains on with the encoder frozen: the latents stay what they are, so a UNet trained on
them stays right, and only the pictures get crisper. With `--restorer UNET` besides, the decoder learns from latents
as they are when a picture has been generated (restorer.py):

    python data/recipes/train_vae.py --decoder-only --restorer data/recipes/runs/unet2/export \\
        --init data/pocket/sd15/vae --run restorer --crop 0 --batch 8 --steps 6000 --lr 3e-4
"""

import json

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from loop import Training, arguments
from scenes_data import Images, fresh_scenes
from sdhelpers import models
from sdhelpers.images import to_tensor
from sdhelpers.measures.pixels import psnr

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    sample_size=128,
    block_out_channels=(32, 64, 128, 160),
    layers_per_block=1,
    norm_num_groups=16,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    mid_block_add_attention=False,
)


LATENT_NOISE = 0.03  # of the latents' own deviation, for training the decoder alone


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor, mirror: torch.Tensor, kl_weight: torch.Tensor):
    posterior = vae.encode(pixels).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    latents = mean + std * torch.randn_like(mean)
    mirrored = mirror[:, None, None, None]
    latents = torch.where(mirrored, latents.flip(-1), latents)
    target = torch.where(mirrored, pixels.flip(-1), pixels)
    loss, metrics = decoder_loss_of(vae, latents, target)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
    return loss + kl_weight * kl, {**metrics, "kl": kl}


def decoder_loss_of(vae: AutoencoderKL, latents: torch.Tensor, target: torch.Tensor):
    return pixel_loss_of(vae.decode(latents).sample.float(), target)


def pixel_loss_of(decoded: torch.Tensor, target: torch.Tensor):
    l1, mse = F.l1_loss(decoded, target), F.mse_loss(decoded, target)
    edges = sum(F.l1_loss(a, b) for a, b in zip(differences(decoded), differences(target)))
    return l1 + 0.5 * edges + 4.0 * mse, {"psnr": -10 * torch.log10(mse.detach() / 4), "edges": edges}


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, count: int = 512) -> float:
    """Mean over fresh scenes of each image's PSNR in dB, latents taken at the posterior's mean."""
    scores = []
    for scene in fresh_scenes(count):
        pixels = to_tensor(scene.image)[None]
        scores.append(psnr(vae.decode(vae.encode(pixels).latent_dist.mode()).sample, pixels))
    return sum(scores) / len(scores)


@torch.no_grad()
def even_out_channels(vae: AutoencoderKL, count: int = 512) -> None:
    """Give all latent channels mean 0 and one deviation, and set `scaling_factor` to one over that.

    A UNet learns best from latents of unit variance in every channel. The change is folded into the two
    1x1 convolutions around the latents, so pictures are decoded exactly as before.
    """
    latents = torch.cat([vae.encode(to_tensor(s.image)[None]).latent_dist.mode() for s in fresh_scenes(count)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = std.log().mean().exp()
    gain = common / std
    channels = len(gain)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias.add_(after.weight[:, :, 0, 0] @ mean)
    after.weight.div_(gain[None, :, None, None])
    before.weight[:channels].mul_(gain[:, None, None, None])
    before.bias[:channels].sub_(mean).mul_(gain)
    before.bias[channels:].add_(2 * gain.log())
    vae.register_to_config(scaling_factor=round(float(1 / common), 5))


def main() -> None:
    options = arguments(__doc__, steps=16_000, batch=32, lr=1e-3, kl=3e-4, crop=64, decoder_only=False, restorer="")
    if options.restorer and (options.crop or not options.decoder_only):
        raise SystemExit("--restorer needs whole pictures and a frozen encoder: add --decoder-only --crop 0.")
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(options.init, dtype=torch.float32) if options.init else AutoencoderKL(**CONFIG)
    if options.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    training = Training("vae", vae, options)
    generator = torch.Generator().manual_seed(training.progress.step)

    def prepare(pixels: torch.Tensor):
        mirror = torch.rand(len(pixels), generator=generator) < 0.25
        pixels = pixels.to(training.device, memory_format=torch.channels_last)
        return pixels, mirror.to(training.device), torch.tensor(options.kl, device=training.device)

    def prepare_latents(pixels: torch.Tensor):
        """Latents as a UNet makes them: nearly, never exactly, what the encoder would give."""
        pixels, mirror, _ = prepare(pixels)
        latents = vae.encode(pixels).latent_dist.mode()
        latents = latents + LATENT_NOISE / vae.config.scaling_factor * torch.randn_like(latents)
        flipped = mirror[:, None, None, None]
        return torch.where(flipped, latents.flip(-1), latents), torch.where(flipped, pixels.flip(-1), pixels)

    images = Images(128, options.crop or None)
    if options.restorer:
        from restorer import CaptionedScenes, Restorer, collate_captioned  # that module uses this one

        restorer = Restorer(vae, options.restorer, models.POCKET / "clip", training.device)
        training.run(CaptionedScenes(models.nouns()), restorer.prepare, restorer.loss_of, collate_captioned)
        vae = training.averaged_model()
    elif options.decoder_only:
        training.run(images, prepare_latents, decoder_loss_of)
        vae = training.averaged_model()
    else:
        training.run(images, prepare, loss_of)
        vae = training.averaged_model()
        even_out_channels(vae)
    scores = {"psnr_db": round(reconstruction_psnr(vae), 2)}
    print(scores)
    vae.half().save_pretrained(training.folder / "export")
    facts = {**training.facts(), "recipe": "data/recipes/train_vae.py", "scores": scores}
    (training.folder / "export" / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
