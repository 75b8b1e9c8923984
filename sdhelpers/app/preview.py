"""What a picture on its way will be, without the VAE: the clean guess, and a straight line from its numbers to colours.

    guess = CleanGuess(pipe)    # from here on it looks at what the UNet answers
    see = LinearPreview(vae)
    see(guess.latest)           # a picture of 16 x 16 pixels

Built in chapter 20.
"""

import torch
from PIL import Image

from sdhelpers.device import seeded_generator
from sdhelpers.images import to_image

PICTURES, SIDE = 32, 128  # soft fields of random colours, which the VAE encodes once


class CleanGuess:
    """The clean latents that a pipeline's UNet guesses at its present step (chapter 5): `latest`, [1, 4, h, w].

    A hook on the UNet; its input is noise and picture in the form of training, whatever the scheduler. In inpainting
    the noisy latents are the first four of its channels.
    """

    def __init__(self, pipe):
        self.pipe, self.latest = pipe, None
        self.hook = pipe.unet.register_forward_hook(self._look)

    def _look(self, unet, inputs, output) -> None:
        seen, part = inputs[0][:1, :4], self.pipe.scheduler.alphas_cumprod[int(inputs[1])]  # part of what is picture
        answers = output[0].chunk(len(output[0]))  # without and with the prompt, or with it alone
        noise = answers[0]
        if len(answers) == 2:
            noise = answers[0] + self.pipe.guidance_scale * (answers[1] - answers[0])
        self.latest = (seen - (1 - part).sqrt() * noise) / part.sqrt()


class LinearPreview:
    """The best linear guess of the colours behind latents, by least squares for whatever VAE it is given."""

    @torch.no_grad()
    def __init__(self, vae):
        fields = torch.rand(PICTURES, 3, 5, 5, generator=seeded_generator(0)) * 2 - 1
        pictures = torch.nn.functional.interpolate(fields, (SIDE, SIDE), mode="bicubic").clamp(-1, 1)
        encoded = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mean * vae.config.scaling_factor
        latents = encoded.float().cpu()  # [32, 4, 16, 16]
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, latents.shape[-2:])
        self.weights = torch.linalg.lstsq(_with_one(latents), small.permute(0, 2, 3, 1).reshape(-1, 3)).solution

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> Image.Image:
        """The first picture of latents [n, 4, h, w], as [h, w] pixels.

        Early guesses may be larger than any picture's latents: they are brought to a spread of 1.
        """
        first = latents[:1].float().cpu()
        first = first / first.std().clamp(min=1)
        colours = _with_one(first) @ self.weights  # [h * w, 3]
        return to_image(colours.T.reshape(3, *first.shape[-2:]))


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """A row for each place: its numbers, and a one for the constant; [places, 5]."""
    rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)
