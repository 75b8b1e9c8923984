"""The catalogue: true to its folder, searchable, and valid whenever it is killed."""

import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdhelpers.generation import Settings
from sdhelpers.metadata import catalogue, save_image
from sdhelpers.metadata.catalogue import Catalogue, CatalogueError, Update
from sdhelpers.metadata.generation import GenerationData, ModelSource

PICTURE = Image.new("RGB", (16, 16), "red")


def data_for(prompt: str, **changes) -> GenerationData:
    return GenerationData(
        settings=dataclasses.replace(Settings(prompt), **changes),
        reading="plain",
        clip_skip=0,
        model=ModelSource("sd15", "pocket", "ab" * 32),
        scheduler={},
        adapters=(),
        embeddings=(),
        made_with={"diffusers": "1", "device": "cpu", "dtype": "float32", "threads": "2"},
        pixels="ef" * 32,
    )


def make(folder: Path, name: str, prompt: str, **changes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_image(PICTURE, data_for(prompt, **changes), path)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images"
    make(place, "cat.png", "a cartoon of a cat on a beach", seed=1)
    make(place, "rocket.webp", "a 3d render of a rocket at night", seed=2, scheduler="Euler a")
    make(place, "more/castle.jpg", "a flat illustration of a castle at night, 100% best", seed=3)
    return place


@pytest.fixture(params=["full text", "LIKE"])
def open_catalogue(request, tmp_path, monkeypatch):
    """Opens the catalogue, with SQLite's full-text search and without it."""
    if request.param == "LIKE":
        monkeypatch.setattr(catalogue, "has_full_text_search", lambda: False)
    elif not catalogue.has_full_text_search():
        pytest.skip("this SQLite has no FTS5")
    return lambda folder: Catalogue(tmp_path / "catalogue.db", folder)


def names(rows: list[dict]) -> list[str]:
    return [row["path"] for row in rows]


def test_it_holds_what_the_files_say(open_catalogue, folder):
    with open_catalogue(folder) as c:
        assert c.update() == Update(read=3, unchanged=0, removed=0)
        row = c.search("rocket")[0]
        assert (row["path"], row["seed"], row["scheduler"], row["model"]) == ("rocket.webp", 2, "Euler a", "sd15")
        assert (row["width"], row["height"], row["num_inference_steps"]) == (16, 16, 20)
        assert len(row["sha256"]) == 64 and row["problem"] is None
        assert c.is_sound() and len(c) == 3


@pytest.mark.parametrize(
    ("words", "exactly", "expected"),
    [
        ("", {}, ["cat.png", "more/castle.jpg", "rocket.webp"]),
        ("night", {}, ["more/castle.jpg", "rocket.webp"]),
        ("NIGHT cast", {}, ["more/castle.jpg"]),
        ("night", {"seed": 2}, ["rocket.webp"]),
        ("", {"model": "sd15", "scheduler": "Euler a"}, ["rocket.webp"]),
        ("", {"negative_prompt": "", "seed": 3}, ["more/castle.jpg"]),
        ("dog", {}, []),
        ("100%", {}, ["more/castle.jpg"]),
        ('" OR "', {}, []),
        ("%", {"seed": 1}, []),
    ],
)
def test_search(open_catalogue, folder, words, exactly, expected):
    with open_catalogue(folder) as c:
        c.update()
        assert names(c.search(words, **exactly)) == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(deadline=None)
def test_any_words_can_be_searched_for(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp() / "empty"
    folder.mkdir(exist_ok=True)
    with Catalogue(Path(":memory:"), folder) as c:
        assert c.search(words) == []


def test_a_column_that_there_is_not(open_catalogue, folder):
    with open_catalogue(folder) as c, pytest.raises(CatalogueError, match=r"no column colour; choose from path, "):
        c.search(colour="red")


def test_only_what_changed_is_read(open_catalogue, folder):
    with open_catalogue(folder) as c:
        c.update()
        assert c.update() == Update(read=0, unchanged=3, removed=0)
        make(folder, "cat.png", "a line drawing of a dog in the snow")
        (folder / "rocket.webp").unlink()
        (folder / "more/castle.jpg").rename(folder / "more/fort.jpg")
        make(folder, "new.png", "a cartoon of an owl")
        seen = []
        assert c.update(seen.append) == Update(read=3, unchanged=0, removed=2)
        assert seen == ["cat.png", "new.png", "more/fort.jpg"]
        assert names(c.search("dog")) == ["cat.png"] and c.search("cat") == [] and c.search("rocket") == []
        assert names(c.search("castle")) == ["more/fort.jpg"]
        assert c.is_sound()


def test_a_file_that_cannot_be_read_is_an_entry_with_a_problem(open_catalogue, folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "text.png").write_text("no picture", encoding="utf-8")
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / "plain.png").write_bytes(b"")
    PICTURE.save(folder / "plain.png")
    with open_catalogue(folder) as c:
        assert c.update().read == 6
        assert list(c.problems()) == ["broken.png", "text.png"]
        assert "cut off" in c.problems()["broken.png"]
        assert c.search(path="plain.png")[0]["prompt"] is None
        assert c.update() == Update(read=0, unchanged=6, removed=0), "it is not tried again until it changes"
        make(folder, "broken.png", "a cartoon of a horse")
        c.update()
        assert names(c.search("horse")) == ["broken.png"] and list(c.problems()) == ["text.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among files, and links for developers only")
def test_odd_names_links_and_pipes(open_catalogue, folder):
    make(folder, "Kätzchen 🐱 'x'.PNG", "a cat")
    (folder / "link.png").symlink_to(folder / "cat.png")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    read = 4
    if sys.platform == "linux":  # macOS has no name that is not UTF-8
        shutil.copy(folder / "cat.png", os.fsencode(folder) + b"/\xff.png")
        read = 5
    with open_catalogue(folder) as c:
        assert c.update().read == read
        assert c.update() == Update(read=0, unchanged=read, removed=0)
        assert names(c.search(prompt="a cat")) == ["Kätzchen 🐱 'x'.PNG"]
        assert ("\\xff.png" in names(c.search())) == (read == 5)


def test_files_that_are_no_catalogue_are_left_alone(tmp_path, folder):
    for name, content in {"text.db": b"not a database at all" * 99, "short.db": b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CatalogueError, match=rf"{name} is no database"):
            Catalogue(tmp_path / name, folder)
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 9999)
    with pytest.raises(CatalogueError, match=r"damaged\.db cannot be used as a catalogue: "):
        Catalogue(tmp_path / "damaged.db", folder)
    for name, script in {"other.db": "CREATE TABLE mine (x)", "newer.db": "PRAGMA user_version = 99"}.items():
        sqlite3.connect(tmp_path / name).executescript(script)
        with pytest.raises(CatalogueError, match=rf"{name} is no catalogue of version 1"):
            Catalogue(tmp_path / name, folder)
    with pytest.raises(CatalogueError, match="no folder nowhere"):
        Catalogue(tmp_path / "a.db", tmp_path / "nowhere")


def test_two_updates_at_once_do_not_disturb_each_other(tmp_path, folder):
    for i in range(100):
        make(folder, f"many/{i}.png", f"a cartoon of cat number {i}")
    problems = []

    def work():
        try:
            with Catalogue(tmp_path / "catalogue.db", folder) as c:
                c.update()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Catalogue(tmp_path / "catalogue.db", folder) as c:
        assert len(c) == 103 and c.is_sound() and len(c.search("cat")) == 101


INDEXER = """
import sys
from pathlib import Path
from sdhelpers.metadata.catalogue import Catalogue
with Catalogue(Path(sys.argv[1]), Path(sys.argv[2])) as c:
    c.update(lambda name: print(name, flush=True))
"""


def kill_after(lines: int, database: Path, folder: Path) -> None:
    """Start an update in a process of its own and kill it after that many files."""
    process = subprocess.Popen([sys.executable, "-c", INDEXER, database, folder], stdout=subprocess.PIPE, text=True)
    for _ in range(lines):
        assert process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert process.returncode != 0, "it was killed before it came to its end"


def test_a_killed_update_leaves_a_valid_catalogue_that_the_next_completes(tmp_path, folder):
    for i in range(400):
        make(folder, f"many/{i:03d}.png", f"a cartoon of cat number {i}")
    database, before = tmp_path / "catalogue.db", 0
    for lines in (1, 30, 70, 111):
        kill_after(lines, database, folder)
        with Catalogue(database, folder) as c:
            assert c.is_sound()
            assert before <= len(c) < 403 and len(c) % catalogue.BATCH == 0
            assert len(c) >= before + lines // catalogue.BATCH * catalogue.BATCH, "finished batches are kept"
            assert all(row["sha256"] and row["prompt"] for row in c.search()), "no entry is half written"
            before = len(c)
    with Catalogue(database, folder) as c:
        assert c.update() == Update(read=403 - before, unchanged=before, removed=0)
        assert len(c) == 403 and c.is_sound() and len(c.search("number")) == 400


def test_a_kill_while_the_catalogue_is_made_leaves_nothing_half_done(tmp_path, folder):
    script = "import os; from sdhelpers.metadata import catalogue\n" + INDEXER.replace(
        "with", "catalogue.statements = lambda s, whole=catalogue.statements: dying(whole(s))\nwith"
    ).replace("import sys", "import sys\ndef dying(all):\n    yield next(all)\n    os.kill(os.getpid(), 9)\n")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "c.db", folder])
    assert done.returncode in (-9, 9), "killed; Windows says it with the other sign"
    with Catalogue(tmp_path / "c.db", folder) as c:
        assert c.update().read == 3 and c.is_sound()
