"""What every stored notebook must be: executed, small, portable, linked, and readable on GitHub."""

import base64
import io
import json
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from sdhelpers import models
from sdhelpers.book import chapters, links, page, store, table
from sdhelpers.measures.pixels import difference

WRITTEN = list(chapters.existing().items())
every_chapter = pytest.mark.parametrize(("chapter", "path"), WRITTEN, ids=[p.stem for _, p in WRITTEN])


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


WITHOUT_SUMMARY = ("Exercises", "Summary", "Alongside the book")


def tagged(notebook, tag: str):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


@every_chapter
def test_it_is_stored_executed_in_order_and_small(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert any(c.outputs for c in code_cells(notebook))
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "error"]
    assert path.stat().st_size <= 600_000


@every_chapter
def test_github_can_draw_it(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    text = path.read_text(encoding="utf-8")
    assert page.WIDGET_MIME not in text, "a stored widget view has no state to show"
    assert "papermill" not in json.dumps(notebook.metadata)


@every_chapter
def test_nothing_of_the_authors_machine_is_in_it(chapter, path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work)/|[A-Z]:\\\\", text)


def test_nothing_of_the_authors_machine_is_in_the_models_settings():
    files = [p for p in models.POCKET.rglob("*.json") if p.name != "tokenizer.json"]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text, path
        assert not re.search(r'"/|recipes/runs|[A-Z]:\\\\', text), path


@every_chapter
def test_it_has_the_parts_of_a_chapter(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    for tag in ("title", "parameters", "setup"):
        assert len(tagged(notebook, tag)) == 1, f"one cell tagged {tag}"
    assert notebook.cells[0].source.startswith(f"# {chapter} ")
    assert links.badge(chapter) in tagged(notebook, "title")[0].source
    assert 'tier = "pocket"' in tagged(notebook, "parameters")[0].source
    assert links.repository_address() in tagged(notebook, "setup")[0].source
    headings = [line for c in notebook.cells if c.cell_type == "markdown" for line in c.source.split("\n")]
    assert "## Exercises" in headings and "## Summary" in headings
    solutions = tagged(notebook, "solution")
    folded = {"source_hidden": True, "outputs_hidden": True}
    assert solutions and all(c.metadata.get("jupyter") == folded for c in solutions)
    navigation = tagged(notebook, "navigation")
    assert len(navigation) == 1 and navigation[0].source == links.navigation(chapter)


@every_chapter
def test_each_section_has_its_summary_in_japanese(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    sections = [h for h in re.findall(r"(?m)^## (.+?) *$", prose) if h not in WITHOUT_SUMMARY]
    folded = re.search(
        r'(?s)<details lang="ja">\n<summary>日本語の要約</summary>\n\n(.*)\n\n</details>$', notebook.cells[0].source
    )
    assert folded, "the first cell ends with a folded summary"
    told = dict(re.fullmatch(r"- \*\*(.+?)\*\*: (.+)", line).groups() for line in folded[1].split("\n"))
    assert list(told) == sections
    for text in told.values():
        assert 100 <= len(text) <= 200 and len(re.findall("[ぁ-んァ-ヶ一-龠]", text)) > len(text) / 3
        assert text.endswith("。") and "  " not in text


@every_chapter
def test_no_heading_stands_twice(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    lines = [line for c in notebook.cells if c.cell_type == "markdown" for line in c.source.split("\n")]
    headings = [line for line in lines if re.match("#+ ", line)]
    assert len(headings) == len(set(headings))


@every_chapter
def test_cells_are_short_and_prose_stands_between(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    lengths = sorted(len(c.source.strip().split("\n")) for c in code_cells(notebook))
    assert lengths[-1] <= 30, "no code cell is over 30 lines"
    assert lengths[len(lengths) // 2] < 10, "most code cells are under 10 lines"
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    assert words >= 800


@every_chapter
def test_every_link_to_a_file_works(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (path.parent / target).exists(), target


def test_badges_navigation_and_the_readme_are_up_to_date(monkeypatch):
    wrote = []
    monkeypatch.setattr(links, "write_notebook", lambda notebook, path: wrote.append(path) or path)
    monkeypatch.setattr(links, "write_text", lambda path, text: wrote.append(path))
    monkeypatch.setattr(table, "draw_thumbnail", lambda path, picture: wrote.append(path))
    links.relink()
    assert wrote == [], "run `python -m sdhelpers relink`"


@every_chapter
def test_the_readme_shows_a_picture_and_what_the_chapter_takes(chapter, path):
    notebook = nbformat.read(path, as_version=4)
    row = table.row(chapter, "Title", path, "badge")
    assert re.search(r"\| \d+ s, [\d.]+ GB \|", row)
    small = table.thumbnail(chapter, notebook)
    assert small and small.name in row and small.stat().st_size < 20_000
    with Image.open(small) as image:
        assert image.size == table.SIZE


def test_a_tagged_cells_picture_is_the_chapters_and_it_takes_the_formers_place(tmp_path):
    def cell(colour: str, tags: list[str], size: int):
        file = io.BytesIO()
        Image.new("RGB", (size, size), colour).save(file, "PNG")
        data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        output = nbformat.v4.new_output("display_data", data)
        return nbformat.v4.new_code_cell("x", outputs=[output], metadata={"tags": tags})

    notebook = nbformat.v4.new_notebook(cells=[cell("red", [], 900), cell("blue", ["thumbnail"], 400)])
    (tmp_path / "03-former.webp").touch()
    (tmp_path / "04-other.webp").touch()
    table.draw_thumbnail(tmp_path / "03-new.webp", table.picture_of(notebook))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["03-new.webp", "04-other.webp"]
    with Image.open(tmp_path / "03-new.webp") as image:
        assert image.size == table.SIZE and image.getpixel((80, 80))[2] > 200


def test_stored_pictures_are_small_and_look_the_same():
    noise = np.random.RandomState(0).randint(0, 256, (16, 16, 3), np.uint8)
    picture = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
    plot = Image.new("RGB", (128, 128), "white")
    plot.paste((31, 119, 180), (20, 20, 90, 30))
    for image, kind in ((picture, "image/jpeg"), (plot, "image/png")):
        file = io.BytesIO()
        image.save(file, "PNG")
        data = nbformat.NotebookNode({"image/png": base64.b64encode(file.getvalue()).decode(), "image/jpeg": "old"})
        store.shrink_picture(data)
        assert list(data) == [kind]
        kept = Image.open(io.BytesIO(base64.b64decode(data[kind])))
        assert len(base64.b64decode(data[kind])) <= len(file.getvalue())
        assert difference(image, kept) < (0.03 if kind == "image/jpeg" else 0.001)


def test_progress_bars_are_not_stored_and_panels_leave_a_note():
    view = {"model_id": "1", "version_major": 2, "version_minor": 0}
    outputs = [
        nbformat.v4.new_output("display_data", {page.WIDGET_MIME: view, "text/plain": text})
        for text in ("Loading weights:   0%|          | 0/68 [00:00<?, ?it/s]", "VBox(children=(Text(value=''),))")
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    kept = store.clean(notebook).cells[0].outputs
    assert len(kept) == 1 and kept[0].data["text/html"] == page.PANEL_NOTE
