"""Compare settings or checkpoints on the same held-out captions and seeds: a line of scores for each.

    python data/recipes sweep --images 80 --guidance 2 3 5 7.5
    python data/recipes sweep --images 80 --guidance 5 7.5 --interval 150 850      # guidance only between
    python data/recipes sweep --unet data/recipes/runs/unet2/export --images 200 --guidance 3 7.5 --sheet way.webp
    python data/recipes sweep --guidance                                           # only what is drawn back

The trained judge's and the drawings' shares of right nouns, the drawing's error and the sharpness beside drawn scenes
after the VAE (fidelity.py). `--sheet` keeps the first 64 pictures of each scale, with the seeds 0 to 63, small.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import places
import stages
from artist import STEPS, Artist, decode_again, drawn_by_the_world, heads_right, held_out_tasks
from card import share
from fidelity import compare, drawn_back
from scenes_data import fresh_scenes
from sdhelpers.measures.judge import Classifier

UNGUIDED = 1 + 1e-6  # at 1 the pipeline leaves the empty prompt out, and cannot take it in again


def guided_between(scale: float, first: float, last: float) -> dict:
    """Arguments for a pipeline that guides only at time steps between `first` and `last`; it must begin outside."""

    def set_scale(pipe, step: int, timestep, tensors: dict) -> dict:
        following = pipe.scheduler.timesteps[min(step + 1, len(pipe.scheduler.timesteps) - 1)]
        pipe._guidance_scale = scale if first < following < last else UNGUIDED
        return tensors

    return {"callback_on_step_end": set_scale}


def set_guidance(artist: Artist, scale: float, interval: list[float] | None) -> str:
    """Let the artist draw with this guidance; returns what to call it."""
    if not interval:
        artist.guidance_scale, artist.other = scale, {}
        return f"guidance {scale:g}"
    artist.guidance_scale, artist.other = UNGUIDED, guided_between(scale, *interval)
    return f"guidance {scale:g}, only for {interval[0]:g} < t < {interval[1]:g}"


def contact_sheet(images: list[Image.Image], columns: int = 8, side: int = 96) -> Image.Image:
    """Small pictures side by side, nothing between them: every sheet of one count has the same places."""
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for i, image in enumerate(images):
        sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (i % columns * side, i // columns * side))
    return sheet


def main(arguments: Sequence[str]) -> None:
    parser = stages.parser_of("sweep", __doc__)
    parser.add_argument("--model", type=Path, default=places.POCKET / "sd15")
    parser.add_argument("--unet", type=Path, help="this UNet instead of the model's own")
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--guidance", type=float, nargs="*", default=[3.0, 7.5])
    parser.add_argument("--interval", type=float, nargs=2, help="guide only between these time steps")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    artist, judge = Artist.from_folder(options.model, options.unet), Classifier()
    for on_grid in (False, True):
        scenes = fresh_scenes(64, nouns=artist.nouns, latent_grid=on_grid)
        where = "on whole latents" if on_grid else "anywhere"
        print(json.dumps({"drawn back, objects": where, **drawn_back(artist.pipe, scenes)}), flush=True)
    tasks, captions = held_out_tasks(options.images, artist.nouns)
    ceiling = decode_again(artist.pipe, drawn_by_the_world(tasks, 50_000))
    for scale in options.guidance:
        name = set_guidance(artist, scale, options.interval)
        images = artist(captions, list(range(options.images)), what=name)
        judged = {head: share(flags) for head, flags in heads_right(judge(images), tasks).items()}
        scores = {"setting": name, "steps": STEPS, "images": options.images, "judge": judged}
        print(json.dumps(scores | compare(images, ceiling, tasks, artist.nouns)), flush=True)
        if options.sheet:
            contact_sheet(images[:64]).save(options.sheet.with_stem(f"{options.sheet.stem}-{scale:g}"), quality=80)
