"""Published models: what they weigh, whether they fit here, and their download at a fixed revision.

Every trouble is a ModelError with one sentence that says what to do, and it comes before anything is
downloaded. Built in chapter 6.
"""

import hashlib
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlparse

import huggingface_hub
import psutil
from huggingface_hub import constants as hub

from sdhelpers.models.registry import HubModel, ModelError

GB = 1e9


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(model: HubModel) -> Path:
    """The hub's snapshot folder: from the cache, or downloaded after the checks below."""
    options = dict(repo_id=model.repository, revision=model.revision, allow_patterns=list(model.files))
    check_memory(model)
    try:
        return _checked(model, huggingface_hub.snapshot_download(**options, local_files_only=True))
    except (huggingface_hub.errors.LocalEntryNotFoundError, FileNotFoundError):
        pass
    check_disk(model)
    check_network(model)
    print(
        f"Downloading {model.repository}: {model.download / GB:.1f} GB to {_from_home(Path(hub.HF_HUB_CACHE))} "
        f"(licence: {model.licence})."
    )
    try:
        return _checked(model, huggingface_hub.snapshot_download(**options))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The download of {model.repository} broke off ({type(error).__name__}); run the cell again, "
            f"it goes on where it stopped."
        ) from error


def _checked(model: HubModel, folder: str) -> Path:
    """The folder, once a single file in it has the SHA-256 that is expected."""
    if model.sha256:
        path = Path(folder) / model.files[0]
        if not path.exists():
            raise FileNotFoundError(path)
        if sha256(path) != model.sha256:
            raise ModelError(
                f"{path.name} from {model.repository} is damaged or has changed: delete {path} and try again."
            )
    return Path(folder)


def check_memory(model: HubModel, available: int | None = None, bytes_per_number: int | None = None) -> None:
    """Raise ModelError when the model cannot fit: GPU memory if there is one, else the computer's."""
    if available is None or bytes_per_number is None:
        available, bytes_per_number = memory_here()
    needed = model.memory(bytes_per_number)
    if needed > available:
        raise ModelError(
            f"{model.repository} needs about {needed / GB:.1f} GB of memory and {available / GB:.1f} GB are free: "
            f'close other programs or use tier = "pocket".'
        )


def memory_here() -> tuple[int, int]:
    """Free bytes where the model would run, and the bytes that a number takes there."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], 2
    return psutil.virtual_memory().available, 4


def check_disk(model: HubModel, free: int | None = None) -> None:
    """Raise ModelError when the download would not fit on the disk of the hub's cache."""
    folder = Path(hub.HF_HUB_CACHE)
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free if free is None else free
    if model.download * 1.05 > free:
        raise ModelError(
            f"{model.repository} is a download of {model.download / GB:.1f} GB and only {free / GB:.1f} GB are free "
            f"at {_from_home(folder)}: free some disk, or set HF_HOME to a folder on a larger one."
        )


def _from_home(path: Path) -> str:
    """The path as the reader writes it, with ~ for the home folder."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def check_network(model: HubModel) -> None:
    """Raise ModelError when the hub cannot be reached, before anything is begun."""
    address = urlparse(os.environ.get("HTTPS_PROXY") or hub.ENDPOINT)
    try:
        if hub.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        raise ModelError(
            f"{model.repository} is not on this computer and the hub cannot be reached ({error}): "
            f'connect to the internet for the {model.download / GB:.1f} GB download, or use tier = "pocket".'
        ) from error
