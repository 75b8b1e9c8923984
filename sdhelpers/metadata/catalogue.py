"""A catalogue of the images in a folder: an SQLite database that one can search, kept up to date file by file.

    with Catalogue(Path("catalogue.db"), folder) as catalogue:
        catalogue.update()
        catalogue.search("rocket night", scheduler="Euler a")

The database is valid whenever the program is killed: files are entered in transactions of BATCH, and the next
update goes on with what is missing. Built in chapter 19.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdhelpers.metadata.files import WRITERS, ImageFile, read_image
from sdhelpers.metadata.parameters import to_settings
from sdhelpers.metadata.png import MetadataError
from sdhelpers.models.hub import sha256

VERSION = 1  # of the tables below, kept in the database's user_version
BATCH = 20
FACTS = ("prompt", "negative_prompt", "seed", "guidance_scale", "num_inference_steps", "scheduler", "width", "height")
COLUMNS = ("path", "size", "modified", "sha256", *FACTS, "model", "problem")
TABLES = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    sha256 TEXT NOT NULL, prompt TEXT, negative_prompt TEXT, seed INTEGER, guidance_scale REAL,
    num_inference_steps INTEGER, scheduler TEXT, width INTEGER, height INTEGER, model TEXT, problem TEXT);
CREATE INDEX images_by_sha256 ON images (sha256);
"""
WORDS = """
CREATE VIRTUAL TABLE words USING fts5 (prompt, content='images', content_rowid='id');
CREATE TRIGGER entered AFTER INSERT ON images BEGIN
    INSERT INTO words (rowid, prompt) VALUES (new.id, new.prompt); END;
CREATE TRIGGER removed AFTER DELETE ON images BEGIN
    INSERT INTO words (words, rowid, prompt) VALUES ('delete', old.id, old.prompt); END;
CREATE TRIGGER changed AFTER UPDATE OF prompt ON images BEGIN
    INSERT INTO words (words, rowid, prompt) VALUES ('delete', old.id, old.prompt);
    INSERT INTO words (rowid, prompt) VALUES (new.id, new.prompt); END;
"""


class CatalogueError(RuntimeError):
    """A catalogue that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Update:
    """What an update did: files read, files that stood there unchanged, entries of files that are gone."""

    read: int
    unchanged: int
    removed: int


def has_full_text_search() -> bool:
    """Whether this Python's SQLite was built with FTS5."""
    with sqlite3.connect(":memory:") as database:
        return bool(database.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])


class Catalogue:
    """The images of `folder` and its subfolders in the database file `database`, which is made if need be.

    Raises CatalogueError when the folder is not there, or the file is no catalogue of this version.
    """

    def __init__(self, database: Path, folder: Path):
        if not folder.is_dir():
            raise CatalogueError(f"There is no folder {folder.name}.")
        if database.is_file() and _beginning(database) not in (b"", b"SQLite format 3\0"):
            raise CatalogueError(f"{database.name} is no database: choose another file name.")
        self.name, self.folder = database.name, folder
        self._database = sqlite3.connect(database, timeout=10, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise CatalogueError(f"{self.name} cannot be used as a catalogue: {error}.") from error
        except CatalogueError:
            self.close()
            raise

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def _prepare(self) -> None:
        """Make the tables if the file is new."""
        with self._transaction() as database:
            found = database.execute("PRAGMA user_version").fetchone()[0]
            tables = database.execute("SELECT name FROM sqlite_master").fetchall()
            if found not in (0, VERSION) or (found == 0 and tables):
                raise CatalogueError(f"{self.name} is no catalogue of version {VERSION}: choose another file name.")
            if found == 0:
                for statement in statements(TABLES + (WORDS if has_full_text_search() else "")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
        self.full_text = bool(self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing, whatever ends it."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database

    def update(self, on_file: Callable[[str], None] | None = None) -> Update:
        """Enter new and changed files, and remove the entries of files that are gone.

        A file of the same size and time of change as its entry is not opened. `on_file(path)` is called after
        each file that was read. A file that cannot be read gets an entry with the problem.
        """
        known = {row["path"]: row for row in self._database.execute("SELECT path, size, modified FROM images")}
        read, seen, waiting = 0, set(), []
        for name, path in image_files(self.folder):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed since it was listed
                continue
            seen.add(name)
            if name in known and (known[name]["size"], known[name]["modified"]) == (status.st_size, status.st_mtime_ns):
                continue
            waiting.append(entry_of(name, path, status))
            read += 1
            if len(waiting) == BATCH:
                self._enter(waiting)
                waiting = []
            if on_file:
                on_file(name)
        gone = [name for name in known if name not in seen]
        self._enter(waiting, gone)
        return Update(read, len(seen) - read, len(gone))

    def _enter(self, entries: list[dict], gone: list[str] = ()) -> None:
        """Write entries, in place of older ones of the same files, and remove those of files that are gone."""
        updates = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])
        places = ", ".join(f":{column}" for column in COLUMNS)
        insert = f"INSERT INTO images ({', '.join(COLUMNS)}) VALUES ({places})"
        with self._transaction() as database:
            database.executemany(f"{insert} ON CONFLICT (path) DO UPDATE SET {updates}", entries)
            database.executemany("DELETE FROM images WHERE path = ?", [(name,) for name in gone])

    def search(self, words: str = "", **exactly) -> list[dict]:
        """The entries whose prompt has words beginning with all of `words`, and whose columns are `exactly` these.

        Without full-text search the words may begin within others. Raises CatalogueError for an unknown column.
        """
        unknown = [column for column in exactly if column not in COLUMNS]
        if unknown:
            raise CatalogueError(f"There is no column {', '.join(unknown)}; choose from {', '.join(COLUMNS)}.")
        conditions, values = [f"{column} IS ?" for column in exactly], list(exactly.values())
        asked = words.replace("\0", " ").split()
        if asked and self.full_text:
            conditions.append("id IN (SELECT rowid FROM words WHERE words MATCH ?)")
            values.append(" ".join('"' + word.replace('"', '""') + '"*' for word in asked))
        elif asked:
            conditions += ["prompt LIKE ? ESCAPE '\\'" for _ in asked]
            values += [f"%{like(word)}%" for word in asked]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._database.execute(f"SELECT {', '.join(COLUMNS)} FROM images {where} ORDER BY path", values)
        return [dict(row) for row in rows]

    def problems(self) -> dict[str, str]:
        """The files that could not be read, and why."""
        rows = self._database.execute("SELECT path, problem FROM images WHERE problem IS NOT NULL ORDER BY path")
        return {row["path"]: row["problem"] for row in rows}

    def is_sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file, nor with its index of words."""
        try:
            if self.full_text:
                self._database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
            return self._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        except sqlite3.DatabaseError:
            return False

    def __len__(self) -> int:
        return self._database.execute("SELECT count(*) FROM images").fetchone()[0]


def _beginning(path: Path) -> bytes:
    """The first sixteen bytes: SQLite itself would take a short file of any kind for an empty database."""
    with open(path, "rb") as file:
        return file.read(16)


def statements(script: str) -> Iterator[str]:
    """The statements of a script one by one, for `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def like(word: str) -> str:
    """The word with LIKE's own signs escaped."""
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def image_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every image file below a folder, in order: its name in the catalogue, and its path. Links are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in WRITERS and path.is_file() and not path.is_symlink():
                relative = path.relative_to(folder).as_posix()
                yield relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), path


def entry_of(name: str, path: Path, status: os.stat_result) -> dict:
    """What the catalogue keeps of a file; of one that cannot be read, the problem."""
    entry = dict.fromkeys(COLUMNS) | {"path": name, "size": status.st_size, "modified": status.st_mtime_ns}
    try:
        return entry | facts_of(read_image(path)) | {"sha256": sha256(path)}
    except (MetadataError, OSError) as error:
        return entry | {"sha256": "", "problem": str(error)}


def facts_of(found: ImageFile) -> dict:
    """The columns that come from the generation data, or from a `parameters` text where there are none."""
    facts = {"width": found.width, "height": found.height}
    if found.data:
        settings, model = found.data.settings, found.data.model.name
    elif found.parameters:
        model = found.parameters.fields.get("Model")
        try:
            settings = to_settings(found.parameters)
        except MetadataError:  # another program's, of which this book understands the prompts at least
            return facts | {"prompt": found.parameters.prompt, "model": model}
    else:
        return facts
    return {column: getattr(settings, column) for column in FACTS} | facts | {"model": model}
