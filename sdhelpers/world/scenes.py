"""Put drawings into a place: the image, and the truth about every pixel of it."""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from sdhelpers.world.captions import Description, describe, pick, write_caption
from sdhelpers.world.drawings import drawing
from sdhelpers.world.places import Place, draw_place

FLYING = ("butterfly", "bee", "airplane", "helicopter", "rocket", "UFO", "balloon", "moon", "star", "rainbow")
SIZES = (0.50, 0.56, 0.62, 0.68, 0.75)  # an only object's longer side, as a part of the image
GRID = 32  # positions are multiples of 1/GRID of the image
LATENT_GRID = 16  # or, where a drawing shall always fall on the latents alike, of about 1/LATENT_GRID
LATENT = 8  # pixels that one latent stands for, in each direction


@dataclasses.dataclass
class Scene:
    """An image with its caption and its truth. Arrays are [size, size]; index 0 of the first axis is the top."""

    image: Image.Image
    caption: str
    description: Description
    masks: list[np.ndarray]  # bool, one for each noun in order: its visible pixels
    boxes: list[tuple[int, int, int, int]]  # left, top, right, bottom of each mask, right and bottom excluded
    depth: np.ndarray  # float32, 0 far to 1 near
    edges: np.ndarray  # bool, the outlines of the masks
    front_to_back: list[int]  # indices into `masks`


@dataclasses.dataclass
class _Figure:
    """A drawing with the place of its upper left corner, in pixels."""

    pixels: np.ndarray
    left: int
    top: int

    @property
    def bottom(self) -> int:
        return self.top + self.pixels.shape[0]


@functools.lru_cache(maxsize=256)
def _shadow(width: int, height: int) -> np.ndarray:
    """A soft dark ellipse: uint8 [height, width, 4] with black times alpha."""
    image = Image.new("L", (64, 32))
    ImageDraw.Draw(image).ellipse([10, 6, 54, 26], fill=84)
    alpha = np.asarray(image.filter(ImageFilter.GaussianBlur(3)).resize((width, height)))
    return np.dstack([np.zeros((height, width, 3), np.uint8), alpha])


def _paste(canvas: np.ndarray, pixels: np.ndarray, left: int, top: int) -> np.ndarray:
    """Lay colours-times-alpha over the canvas in place; return where alpha is at least one half."""
    size = canvas.shape[0]
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(size, left + pixels.shape[1]), min(size, top + pixels.shape[0])
    covered = np.zeros((size, size), bool)
    if x0 < x1 and y0 < y1:
        part = pixels[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.uint16)
        alpha = part[..., 3:]
        under = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = np.minimum(255, part[..., :3] + (under * (255 - alpha) + 127) // 255)
        covered[y0:y1, x0:x1] = alpha[..., 0] >= 128
    return covered


def _snap(value: float, size: int) -> int:
    """The nearest multiple of 1/GRID, in pixels."""
    return round(value * GRID) * size // GRID


def _base(place: Place, noun: str, size: int, rng: np.random.RandomState) -> int:
    """The height in pixels that an object's lower edge stands on."""
    chance = rng.random_sample()
    if noun in FLYING:
        return _snap(0.72 + 0.12 * chance, size)
    if place.horizon is None:
        return _snap(0.8 + 0.1 * chance, size)
    if place.water is not None:
        return _snap(0.88, size)
    return _snap(place.horizon + (0.97 - place.horizon) * (0.45 + 0.5 * chance), size)


def _single(description, place, size, rng) -> list[_Figure]:
    noun = description.nouns[0]
    side = round(pick(rng, SIZES) * size)
    pixels = drawing(noun, description.style, side)
    height, width = pixels.shape[:2]
    centre = _snap(0.5 + 0.3 * (rng.random_sample() - 0.5), size)
    left = min(max(centre - width // 2, -width // 16), size - width + width // 16)
    return [_Figure(pixels, left, max(2, _base(place, noun, size, rng) - height))]


def _pair(description, place, size, rng) -> list[_Figure]:
    """Two figures in the order of the nouns; the relation says where."""
    first_side, second_side = {"next to": (0.46, 0.46), "on top of": (0.4, 0.5), "riding": (0.42, 0.62)}[
        description.relation
    ]
    nouns, style = description.nouns, description.style
    first = drawing(nouns[0], style, round(first_side * size))
    second = drawing(nouns[1], style, round(second_side * size))
    base = size - 4 if description.relation == "on top of" else _base(place, nouns[1], size, rng)
    shift = _snap(0.5 + 0.12 * (rng.random_sample() - 0.5), size)
    if description.relation == "next to":
        near, far = shift - round(0.235 * size), shift + round(0.235 * size)
        if rng.random_sample() < 0.5:
            near, far = far, near
        return [
            _Figure(pixels, centre - pixels.shape[1] // 2, base - pixels.shape[0])
            for pixels, centre in ((first, near), (second, far))
        ]
    top = base - second.shape[0]
    overlap = round((0.3 if description.relation == "riding" else 0.05) * first.shape[0])
    lower = _Figure(second, shift - second.shape[1] // 2, top)
    # A rider sits where the mount's back is, not where its head ends.
    back = _top_at(second, second.shape[1] // 2) if description.relation == "riding" else 0
    upper = _Figure(first, shift - first.shape[1] // 2, max(1, top + back + overlap - first.shape[0]))
    return [upper, lower]


def _top_at(pixels: np.ndarray, column: int) -> int:
    """The first visible row around a column of a drawing."""
    middle = pixels[:, max(0, column - 3) : column + 4, 3]
    rows = np.nonzero((middle >= 128).any(axis=1))[0]
    return int(rows[0]) if len(rows) else 0


def _on_latent_grid(figures: list[_Figure], size: int) -> list[_Figure]:
    """The figures moved until every middle and lower edge is a multiple of 1/LATENT_GRID of the image, whole latents.

    What sits on something is the first of two: its lower edge goes down with the other's and on to the next line
    of the grid, never up, so that it does not hover.
    """
    cell = max(1, size // LATENT_GRID // LATENT) * LATENT
    moved = []
    for figure in reversed(figures):
        height, width = figure.pixels.shape[:2]
        middle = round((figure.left + width // 2) / cell) * cell
        base = round(figure.bottom / cell) * cell
        if moved and figure.bottom < figures[1].bottom:
            base = -(-(figure.bottom + moved[0].bottom - figures[1].bottom) // cell) * cell
        moved.insert(0, _Figure(figure.pixels, middle - width // 2, base - height))
    return moved


def _background_depth(place: Place, size: int) -> np.ndarray:
    """Far above the horizon, nearer with every row below it; a plain colour is a wall at the back."""
    side = len(place.pixels)
    rows = (np.arange(side, dtype=np.float32) + 0.5) / size
    horizon = 1.0 if place.horizon is None else place.horizon
    ramp = 0.05 + 0.75 * np.clip((rows - horizon) / max(1e-6, 1.0 - horizon), 0, 1)
    return np.repeat(ramp[:, None], side, axis=1).astype(np.float32)


def _compose(description, place, size, rng, latent_grid):
    """Shadows first, then the figures from back to front; a rider sits behind its mount's back."""
    figures = (
        _single(description, place, size, rng) if len(description.nouns) == 1 else _pair(description, place, size, rng)
    )
    if latent_grid:
        figures = _on_latent_grid(figures, size)
    canvas, depth = place.pixels.astype(np.uint16), _background_depth(place, size)
    back_to_front = list(range(len(figures)))
    standing = back_to_front if description.relation in (None, "next to") else [1]
    for i in standing:
        if place.water is None and description.nouns[i] not in FLYING:
            width = figures[i].pixels.shape[1]
            tall = max(6, round(0.16 * width))
            _paste(canvas, _shadow(width, tall), figures[i].left, figures[i].bottom - round(0.62 * tall))
    masks = [np.zeros(canvas.shape[:2], bool) for _ in figures]
    for order, i in enumerate(back_to_front):
        covered = _paste(canvas, figures[i].pixels, figures[i].left, figures[i].top)
        for mask in masks:
            mask &= ~covered
        masks[i] = covered
        depth[covered] = 0.62 + 0.08 * order
    if place.water is not None:
        covered = _paste(canvas, place.water, 0, 0)
        masks = [mask & ~covered for mask in masks]
        depth[covered] = np.maximum(depth[covered], 0.8)
    return canvas.astype(np.uint8), masks, depth, back_to_front[::-1]


def _extended(place: Place, more: int) -> Place:
    """The place going on by `more` pixels: to the right as in a mirror, below as its lowest row."""

    def extend(pixels: np.ndarray) -> np.ndarray:
        lower = np.pad(pixels, ((0, more), (0, 0), (0, 0)), mode="edge")
        return np.pad(lower, ((0, 0), (0, more), (0, 0)), mode="symmetric")

    water = None if place.water is None else extend(place.water)
    return dataclasses.replace(place, pixels=extend(place.pixels), water=water)


def _crop(canvas: np.ndarray, masks, depth, rng):
    """Enlarge the first object until the frame cuts it off; the truth is cropped alike."""
    size = canvas.shape[0]
    rows, columns = np.nonzero(masks[0]) if masks[0].any() else (np.array([size // 2]),) * 2
    side = round(size * (0.42 + 0.06 * rng.random_sample()))
    left = int(min(max(columns.mean() - side / 2 + (rng.random_sample() - 0.5) * 0.2 * size, 0), size - side))
    top = int(min(max(rows.mean() - side / 2 + (rng.random_sample() - 0.5) * 0.2 * size, 0), size - side))

    def enlarge(array: np.ndarray, resample) -> np.ndarray:
        part = Image.fromarray(array[top : top + side, left : left + side])
        return np.asarray(part.resize((size, size), resample))

    masks = [enlarge(mask.astype(np.uint8), Image.Resampling.NEAREST).astype(bool) for mask in masks]
    return (enlarge(canvas, Image.Resampling.LANCZOS), masks, enlarge(depth, Image.Resampling.BILINEAR))


def _add_grain(image: Image.Image, strength: float, rng: np.random.RandomState) -> Image.Image:
    """Coloured grain, four pixels of a 128-pixel image wide; `strength` is its deviation in grey levels."""
    coarse = 128 + strength * rng.standard_normal((32, 32, 3))
    grain = Image.fromarray(np.clip(np.rint(coarse), 0, 255).astype(np.uint8))
    grain = np.asarray(grain.resize(image.size, Image.Resampling.BILINEAR), np.float32) - 128
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + 1.4 * grain), 0, 255).astype(np.uint8))


def _finish(canvas: np.ndarray, quality: str, rng: np.random.RandomState) -> Image.Image:
    """Make the picture as good or as bad as its quality says."""
    image, size = Image.fromarray(canvas), canvas.shape[0]
    if quality == "best":
        return ImageEnhance.Color(image).enhance(1.12)
    image = ImageEnhance.Color(image).enhance(0.88 + 0.06 * rng.random_sample())
    if quality == "blurry":
        return image.filter(ImageFilter.GaussianBlur(size / 128 * (2.0 + 1.2 * rng.random_sample())))
    if quality == "noisy":
        return _add_grain(image, 11 + 5 * rng.random_sample(), rng)
    if quality == "monochrome":
        return image.convert("L").convert("RGB")
    if quality == "washed out":
        faded = ImageEnhance.Color(image).enhance(0.45)
        return Image.blend(faded, Image.new("RGB", image.size, (206, 206, 206)), 0.55)
    return image


def outline(mask: np.ndarray) -> np.ndarray:
    """The mask's pixels that touch something else, above, below, left or right."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask, the last two excluded; zeros when it is empty."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def draw(
    description: Description,
    rng: np.random.RandomState,
    size: int = 128,
    caption: str = "",
    latent_grid: bool = False,
    window: tuple[int, int] = (0, 0),
) -> Scene:
    """Draw a description. The same description, random state and size give the same pixels.

    With `latent_grid` the same scene has its objects moved by a few pixels, so that a VAE that takes 16 steps
    across the picture meets each drawing of one size in one position to its grid, not in four (no random number more).
    With `window` the scene goes on to the right and below, and what is seen begins so many pixels from its top and
    from its left: everything moves up and to the left (SDXL's crop coordinates).
    Raises ValueError for a noun, style, place or quality that the world does not have.
    """
    place = draw_place(description.place, rng, size)
    if any(window):
        place = _extended(place, max(window))
    canvas, masks, depth, front_to_back = _compose(description, place, size, rng, latent_grid)
    if any(window):
        seen = tuple(slice(first, first + size) for first in window)
        canvas, masks, depth = canvas[seen], [mask[seen] for mask in masks], depth[seen]
    if description.quality == "cropped":
        canvas, masks, depth = _crop(canvas, masks, depth, rng)
    edges = np.any([outline(mask) for mask in masks], axis=0)
    return Scene(
        image=_finish(canvas, description.quality, rng),
        caption=caption or write_caption(description, rng),
        description=description,
        masks=masks,
        boxes=[bounding_box(mask) for mask in masks],
        depth=depth,
        edges=edges,
        front_to_back=front_to_back,
    )


def sample(rng: np.random.RandomState, size: int = 128, latent_grid: bool = False, **vocabulary) -> Scene:
    """A random scene that training may see. `vocabulary` may narrow `nouns` and `styles`, see `describe`."""
    return draw(describe(rng, **vocabulary), rng, size, latent_grid=latent_grid)
