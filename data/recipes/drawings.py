"""Build the sheets in data/drawings from five open emoji sets on npm.

    python data/recipes/drawings.py

Fetches the packages with npm into a temporary folder, renders each drawing at four times its size,
reduces it with Lanczos, trims it, and writes one lossless WebP sheet a style plus `index.json`.
Needs Node's `npm` and the extra `data`. The sheets are committed: readers never run this.
"""

import argparse
import io
import json
import os
import subprocess
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

DRAWINGS = Path(__file__).resolve().parents[1] / "drawings"
CELL = 208  # one drawing's square on a sheet, in pixels
MARGIN = 4  # empty border around each drawing, so that reducing it never bleeds into a neighbour
COLUMNS = 10
GAP = 5  # half the widest gap in a line that still counts as closed, at 4 x CELL

TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PACKAGES, WORDS = TABLES["packages"], TABLES["words"]
SLUGS, HELD_OUT_SLUGS = TABLES["slugs"]["all"].split(), TABLES["slugs"]["held_out"]


def word(slug: str) -> str:
    """The noun as captions write it: "palm-tree" becomes "palm tree"."""
    return WORDS.get(slug, slug.replace("-", " "))


def render_svg(body: str, width: int, height: int) -> Image.Image:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * CELL, height=4 * CELL)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def render_iconify(folder: Path, slug: str) -> Image.Image:
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    name = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
    icon = icons["icons"][name]
    size = icons.get("width", 16)
    return render_svg(icon["body"], icon.get("width", size), icon.get("height", size))


def render_webp(folder: Path, code_point: str) -> Image.Image:
    for name in (f"{code_point}.webp", f"{code_point}-fe0f.webp"):
        if (folder / "assets" / name).exists():
            return Image.open(folder / "assets" / name).convert("RGBA")
    raise FileNotFoundError(f"{folder.name} has no drawing for code point {code_point}")


def render_glyph(folder: Path, code_point: str) -> Image.Image:
    """A glyph of the line font in black ink, with white behind it wherever the ink encloses paper."""
    font = ImageFont.truetype(str(folder / "400Regular" / "NotoEmoji_400Regular.ttf"), 3 * CELL)
    ink = Image.new("L", (4 * CELL, 4 * CELL))
    character = "".join(chr(int(part, 16)) for part in code_point.split("-"))
    ImageDraw.Draw(ink).text((2 * CELL, 2 * CELL), character, font=font, fill=255, anchor="mm")
    # Thicken the ink until small gaps close, fill what it encloses, then shrink the filling by as much.
    closed = ndimage.binary_dilation(np.asarray(ink) > 60, iterations=GAP)
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(closed), iterations=GAP)
    alpha = np.maximum(np.asarray(ink), 255 * inside.astype(np.uint8))
    grey = 255 - np.asarray(ink)
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]), "RGBA")


def premultiplied_resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lanczos on colour times alpha, so that transparent pixels lend no colour to the rim."""
    return image.convert("RGBa").resize(size, Image.LANCZOS).convert("RGBA")


def fit_cell(image: Image.Image) -> Image.Image:
    """Trim to what is visible and fit that into one cell."""
    box = image.getchannel("A").point(lambda v: 255 if v > 8 else 0).getbbox()
    image = image.crop(box)
    room = CELL - 2 * MARGIN
    scale = room / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    image = premultiplied_resize(image, size)
    cell.paste(image, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def save_sheet(name: str, cells: list[Image.Image]) -> None:
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    path = DRAWINGS / f"{name}.webp"
    temporary = path.with_suffix(".part")
    sheet.save(temporary, "WEBP", lossless=True, quality=100, method=6)
    os.replace(temporary, path)
    print(f"{path.name}: {len(cells)} drawings, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="a folder that npm already filled (its node_modules)")
    packages = parser.parse_args().packages
    with tempfile.TemporaryDirectory() as folder:
        if packages is None:
            wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
            subprocess.run(["npm", "install", "--prefix", folder, *wanted], check=True)
            packages = Path(folder) / "node_modules"
        build(packages)


def build(packages: Path) -> None:
    chars = json.loads((packages / "@iconify-json/fluent-emoji-flat/chars.json").read_text(encoding="utf-8"))
    code_points = {slug: code for code, slug in chars.items()}
    slugs = SLUGS + HELD_OUT_SLUGS
    sets = {
        "3d-render": lambda s: render_webp(packages / "@lobehub/fluent-emoji-3d", code_points[s]),
        "flat-illustration": lambda s: render_iconify(packages / "@iconify-json/fluent-emoji-flat", s),
        "line-drawing": lambda s: render_glyph(packages / "@expo-google-fonts/noto-emoji", code_points[s]),
        "cartoon": lambda s: render_iconify(packages / "@iconify-json/noto", s),
        "bold-black-icon": lambda s: render_iconify(packages / "@iconify-json/fluent-emoji-high-contrast", s),
    }
    for name, render in sets.items():
        save_sheet(name, [fit_cell(render(slug)) for slug in slugs])
    index = {
        "cell": CELL,
        "columns": COLUMNS,
        "nouns": [word(slug) for slug in SLUGS],
        "held_out_nouns": [word(slug) for slug in HELD_OUT_SLUGS],
    }
    (DRAWINGS / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
