"""The live page: its models, exported once and kept in `outputs/live`, its scripts, and the packages they run on."""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from sdhelpers import models
from sdhelpers.book import chapters
from sdhelpers.book.environment import installed
from sdhelpers.paths import OUTPUTS, write_text

SCRIPTS = Path(__file__).with_name("live")
KEPT = OUTPUTS / "live"
ABOUT = "models.json"
EXTRA = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs": "MIT licence, Copyright (c) Microsoft Corporation",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "MIT licence, Copyright (c) Microsoft Corporation",
    "@huggingface/tokenizers/dist/tokenizers.min.mjs": "Apache licence 2.0, Hugging Face: tokenizers-LICENSE.txt",
}
LICENCE = "@huggingface/tokenizers/LICENSE"  # the other package brings none
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
EXAMPLES = (
    "a 3d render of a cat on a beach",
    "a flat illustration of a rocket at night",
    "a line drawing of a castle on yellow",
    "a cartoon of an owl in the snow, best quality, detailed",
    "a flat illustration of a sailboat next to a whale",
)


class LiveError(RuntimeError):
    """The live page cannot draw in this build; the message says what to install."""


def prepare(kept: Path = KEPT) -> Path:
    """The folder with `models/` and `packages/`, made anew where weights, export or packages have changed.

    Raises LiveError, with one sentence, where something that it is made with is missing.
    """
    absent = [name for name in EXTRA if installed(name) is None]
    if absent:
        raise LiveError(
            f"The live page is made with {', '.join(absent)}, not installed for this Python: run "
            '`python -m pip install --constraint .ci/constraints.txt --editable ".[site]"` and build again.'
        )
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / "one-at-a-time.lock"):
        _renew(kept)
    return kept


def _renew(kept: Path) -> None:
    _keep(kept / "packages", _digest(SCRIPTS / "package-lock.json", Path(__file__)), _fetch_packages)
    weights = sorted(models.locate("sd15").rglob("*.safetensors"))
    steps = [Path(__file__).with_name(f"{name}.py") for name in ("export", "likeness")]
    _keep(kept / "models", _digest(*weights, *steps), _export)


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _keep(place: Path, digest: str, make) -> None:
    """Leave a folder that was made for this digest; else let `make(folder, digest)` fill a new one."""
    stamp = place / "digest.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return
    with tempfile.TemporaryDirectory(prefix=".live-", dir=place.parent) as folder:
        fresh = Path(folder) / "fresh"
        fresh.mkdir()
        make(fresh, digest)
        write_text(fresh / "digest.txt", digest)
        if place.exists():
            place.rename(Path(folder) / "former")
        fresh.rename(place)


def _fetch_packages(folder: Path, digest: str) -> None:
    """The files of PACKAGES, by npm and in the versions of the lock."""
    npm = shutil.which("npm")
    if npm is None:
        raise LiveError("The live page runs on two packages that npm fetches: install Node.js 20 and build again.")
    with tempfile.TemporaryDirectory() as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, work)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, encoding="utf-8", errors="replace")
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
            raise LiveError(f"The live page's packages could not be fetched by npm ({said}): mend that and build again")
        for name in PACKAGES:
            shutil.copy(Path(work, "node_modules", name), folder)
        shutil.copy(Path(work, "node_modules", LICENCE), folder / "tokenizers-LICENSE.txt")
    lines = [f"{Path(name).name}: {licence}" for name, licence in PACKAGES.items()]
    write_text(folder / "LICENCES.txt", "\n".join(lines) + "\n")


def _export(folder: Path, digest: str) -> None:
    """The ONNX files, the tokenizer's, and what the page must know of them."""
    from diffusers import StableDiffusionPipeline

    from sdhelpers.app.preview import LinearPreview
    from sdhelpers.book.site import export, likeness

    place = models.locate("sd15")
    pipe = StableDiffusionPipeline.from_pretrained(place)
    pipe.set_progress_bar_config(disable=True)
    drawn, line = likeness.of_the_notebooks(pipe), LinearPreview(pipe.vae).weights
    export.write(pipe, folder)
    for name in TOKENIZER:
        shutil.copy(place / "tokenizer" / name, folder)
    about = {
        "set": digest,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "preview": [[round(float(x), 5) for x in row] for row in line],
        "difference": likeness.difference(drawn, likeness.of_the_files(pipe, folder)),
    }
    write_text(folder / ABOUT, json.dumps(about))


def page(prose: Path, kept: Path | None, why_not: str, written: set[int]) -> str:
    """The page's Markdown; without what draws (`kept` is None) it says `why_not`. Links are to `written` chapters."""
    text = prose.read_text(encoding="utf-8")
    if kept is None:
        return text.replace("<!-- live -->", f"This build of the site cannot draw. {why_not}")
    apart = json.loads((kept / "models" / ABOUT).read_text(encoding="utf-8"))["difference"]
    likeness = (
        f"in {apart['pictures']} pictures that this build measured the two differ by {apart['mean']:.1g} of 255 grey "
        f"levels on average, and by {apart['most']} at most."
    )
    examples = "\n".join(f'<button type="button">{example}</button>' for example in EXAMPLES)
    body = (SCRIPTS / "page.html").read_text(encoding="utf-8")
    body = body.replace("LIKENESS", likeness).replace("EXAMPLES", examples)
    known = {Path(chapters.file_name(number)).stem for number in written}
    body = re.sub(r'<a href="(\d\d_\w+)\.html[^"]*">(.*?)</a>', lambda m: m[0] if m[1] in known else m[2], body)
    return text.replace("<!-- live -->", f"```{{raw}} html\n{body}```")


def add(kept: Path, site: Path) -> None:
    """Put scripts, packages and models into a site; the service worker must lie beside its pages."""
    target = site / "_static" / "live"
    target.mkdir(parents=True)
    for path in SCRIPTS.iterdir():
        if path.suffix in (".js", ".css"):
            shutil.copy(path, site if path.name == "isolation.js" else target)
    for name in ("packages", "models"):
        shutil.copytree(kept / name, target / name, ignore=shutil.ignore_patterns("digest.txt"))
    about = target / "models" / ABOUT
    known = json.loads(about.read_text(encoding="utf-8"))
    known["runtime"] = sum(path.stat().st_size for path in (target / "packages").iterdir())
    write_text(about, json.dumps(known))
