"""The app as its clients meet it: many at once, one that goes away, hostile ones, and whom it listens to."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asking
import httpx
import psutil
import pytest
from asking import SETTINGS, TYPE, data_for, last_message
from gradio import http_server
from gradio_client import Client, handle_file
from PIL import Image

from sdhelpers.app.pictures import opened
from sdhelpers.app.requests import read_request
from sdhelpers.app.server import start
from sdhelpers.images import to_png
from sdhelpers.metadata import read_image
from sdhelpers.metadata.generation import pixel_hash

CLIENTS = 20
PICTURES = int(os.environ.get("SDHELPERS_PICTURES", "12"))  # for the test of memory; 200 take some ten minutes


def newest(result) -> Path:
    """The file of the picture that a client was given last."""
    return Path(result[1][0]["image"])


def pixels_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def until(holds, seconds: float = 30) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def client(page):
    client = Client(page.local_url, verbose=False)
    yield client
    client.close()


def test_twenty_clients_at_once_get_their_own_pictures(wide, page, studio):
    """Three at a time, so that pictures could be mixed; `page` is asked for, as it sets where uploads lie."""
    schedulers = ["DPM++ 2M", "Euler a", "UniPC", "Heun"]
    wishes = [
        SETTINGS
        | {
            "seed": n,
            "prompt": f"a cartoon of a {'cat' if n % 2 else 'house'}",
            "scheduler": schedulers[n % 4],
            "num_inference_steps": 2 + n % 3,
            "lora_icon": 1.0 if n % 5 == 0 else 0,
        }
        for n in range(CLIENTS)
    ]
    alone = [studio.draw(read_request("text", wish, studio.limits))[0] for wish in wishes]
    assert len({picture.tobytes() for picture in alone}) == CLIENTS

    def ask(wish: dict) -> Path:
        client = Client(served.local_url, verbose=False)
        try:
            return newest(client.predict(api_name="/text", **wish))
        finally:
            client.close()

    served = start(wide)
    try:
        with ThreadPoolExecutor(CLIENTS) as threads:
            paths = list(threads.map(ask, wishes))
    finally:
        served.close()
    assert [pixels_of(path) for path in paths] == [picture.tobytes() for picture in alone]
    for path, wish in zip(paths, wishes):
        data = read_image(path).data
        assert data.settings.seed == wish["seed"] and data.settings.prompt == wish["prompt"]


def test_a_session_keeps_its_gallery_and_another_sees_nothing_of_it(page, client):
    first = client.predict(api_name="/text", **SETTINGS)
    second = client.predict(api_name="/text", **SETTINGS | {"seed": 8})
    assert [len(result[1]) for result in (first, second)] == [1, 2]
    other = Client(page.local_url, verbose=False)
    assert len(other.predict(api_name="/text", **SETTINGS)[1]) == 1
    other.close()


def test_files_are_read_back_and_drawn_again(client, scene_file, scene, tmp_path):
    layer = Image.new("RGBA", scene.size)
    layer.paste((255, 0, 0, 255), (40, 40, 100, 100))
    layer.save(tmp_path / "layer.png")
    edited = {"background": handle_file(scene_file), "layers": [handle_file(tmp_path / "layer.png")], "composite": None}
    amount = {"strength": 0.8}
    results = {
        "text": client.predict(api_name="/text", **SETTINGS | {"lora_icon": 0.7}),
        "img2img": client.predict(api_name="/img2img", image=handle_file(scene_file), **SETTINGS, **amount),
        "inpaint": client.predict(api_name="/inpaint", image=edited, **SETTINGS, **amount),
        "control": client.predict(
            api_name="/control",
            image=handle_file(scene_file),
            low=100,
            high=200,
            controlnet_conditioning_scale=1,
            **SETTINGS,
        ),
    }
    for task, result in results.items():
        said = client.predict(handle_file(newest(result)), api_name="/read")
        assert SETTINGS["prompt"] in said, task
        again = client.predict(file=handle_file(newest(result)), api_name="/again")
        assert "not a pixel differs" in again[0], task


def test_stop_stops_and_nothing_is_saved(client, studio):
    before = set(studio.folder.glob("*"))
    job = client.submit(api_name="/text", **SETTINGS | {"num_inference_steps": 100, "width": 256, "height": 256})
    assert until(lambda: len(job.outputs()) >= 2)
    client.predict(api_name="/stop")
    seen = len(job.outputs())
    result = job.result(30)
    assert "Stopped" in result[0] and len(job.outputs()) - seen <= 3, "the present step, a preview and the notice"
    assert set(studio.folder.glob("*")) == before


def test_stop_is_for_ones_own_session(page, client):
    other = Client(page.local_url, verbose=False)
    job = client.submit(api_name="/text", **SETTINGS | {"num_inference_steps": 20})
    assert until(lambda: len(job.outputs()) >= 1)
    other.predict(api_name="/stop")
    other.close()
    assert "20 steps" in job.result(60)[0]


def test_a_client_that_goes_away_frees_its_place(page, client, studio):
    before = set(studio.folder.glob("*"))
    data = data_for(page, "text", num_inference_steps=100, width=512, height=512)
    with asking.asked(page, "text", data) as messages:
        next(message for message in messages if message["msg"] == "process_generating")
        assert len(page.rounds.running) == 1
    assert until(lambda: not page.rounds.running, 20), "its drawing ends"
    assert newest(client.predict(api_name="/text", **SETTINGS)).exists(), "the next one's is drawn"
    assert len(set(studio.folder.glob("*")) - before) == 1


def test_one_that_leaves_while_it_waits_is_not_drawn(page, client, studio):
    job = client.submit(api_name="/text", **SETTINGS | {"num_inference_steps": 30})
    assert until(lambda: len(job.outputs()) >= 1)
    with asking.asked(page, "text", data_for(page, "text", seed=4321)) as messages:
        next(message for message in messages if message["msg"] == "estimation")
    job.result(60)
    client.predict(api_name="/text", **SETTINGS)
    assert not list(studio.folder.glob("*-4321-*"))


HOSTILE = {
    "a long prompt": ({"prompt": "a cat " * 17_000}, "102,000 characters"),
    "NaN": ({"guidance_scale": float("nan")}, "guidance scale"),
    "a negative size": ({"width": -8}, "width"),
    "a huge size": ({"height": 2**40}, "height"),
    "a text for a number": ({"seed": "7; DROP TABLE"}, "seed"),
    "a path for a scheduler": ({"scheduler": "../../etc/passwd"}, "scheduler"),
    "a page in the page": ({"scheduler": "<img src=x onerror=alert(1)>"}, "&lt;img"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_end_in_one_sentence(page, name):
    values, said = HOSTILE[name]
    message = last_message(page, "text", data_for(page, "text", **values))
    text = message["output"]["error"]
    assert not message["success"] and said in text and text.endswith(".") and "<" not in text


PATHS = ["/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", "a\0b", "C:\\Windows\\win.ini", ""]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("task", ["img2img", "inpaint"])
def test_no_file_is_read_that_was_not_uploaded(page, path, task):
    file = {"path": path, **TYPE}
    image = file if task == "img2img" else {"background": file, "layers": [file], "composite": None}
    for sent in (image, {"path": path}, [path], path):
        message = last_message(page, task, data_for(page, task, image=sent, strength=0.5))
        text = message["output"]["error"]
        assert not message["success"] and text and text.endswith("."), sent
        assert "root:" not in text


def test_no_file_outside_can_be_fetched_and_names_of_uploads_lead_nowhere(page, studio):
    with httpx.Client(base_url=f"{page.local_url}gradio_api/") as client:
        for path in ("/etc/passwd", f"{studio.folder}/../secret", str(Path(__file__))):
            assert client.get(f"file={path}").status_code in (403, 404), path
        name = "../../../evil.png"
        sent = client.post("upload", files={"files": (name, to_png(Image.new("RGB", (8, 8))), "image/png")})
    place = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    assert all(Path(path).resolve().is_relative_to(place) for path in sent.json())


def broken_files() -> dict[str, bytes]:
    whole = to_png(Image.new("RGB", (64, 64), "red"))
    return {
        "broken.png": whole[: len(whole) // 2],
        "large.png": to_png(Image.new("1", (10_000, 10_000))),
        "text.png": b"<script>alert(1)</script>",
        "empty.png": b"",
    }


@pytest.mark.parametrize("name", broken_files())
def test_broken_and_enormous_pictures_end_in_one_sentence(page, name, tmp_path):
    with httpx.Client(base_url=f"{page.local_url}gradio_api/") as client:
        (path,) = client.post("upload", files={"files": (name, broken_files()[name], "image/png")}).json()
    file = {"path": path, **TYPE}
    asks = {
        "img2img": {"image": file, "strength": 0.5},
        "inpaint": {"image": {"background": file, "layers": [], "composite": None}, "strength": 1.0},
        "control": {"image": file, "low": 100, "high": 200, "controlnet_conditioning_scale": 1.0},
        "read": {"file": file},
        "again": {"file": file},
    }
    for task, values in asks.items():
        message = last_message(page, task, data_for(page, task, **values))
        text = message["output"]["error"]
        assert not message["success"] and text and text.endswith("."), task
        assert "picture" in text.lower(), text


def test_what_was_sent_too_large_is_not_kept(page):
    with httpx.Client(base_url=f"{page.local_url}gradio_api/", timeout=60) as client:
        sent = client.post("upload", files={"files": ("large.png", bytes(21 * 2**20), "image/png")})
    assert sent.status_code == 413


def addresses(port: int) -> set[str]:
    """Where this process listens on a port."""
    listening = [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return {c.laddr.ip for c in listening if c.laddr.port == port}


def test_it_listens_to_this_computer_alone(page):
    assert addresses(page.server_port) == {"127.0.0.1"} and not page.share_url


def test_nothing_in_the_environment_opens_it_and_listen_does(studio, page, monkeypatch):
    for name, value in {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(http_server, "LOCALHOST_NAME", "0.0.0.0")  # what Gradio reads from the first when imported
    for listen, wanted in ((False, "127.0.0.1"), (True, "0.0.0.0")):
        other = start(studio, listen=listen)
        try:
            assert addresses(other.server_port) == {wanted} and not other.share_url
        finally:
            other.close()


def test_the_command_starts_it_and_a_port_in_use_is_a_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sdhelpers", "app", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and str(port) in done.stderr and "Traceback" not in done.stderr
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stdout if "The app is at" in line)
        assert f"http://127.0.0.1:{port}" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert "A drawing app" in answer.read().decode()
    finally:
        server.terminate()
        server.wait(20)


def test_a_chapter_is_read_without_a_network_and_one_that_is_not_there_is_a_sentence(page):
    with httpx.Client(base_url=page.local_url) as client:
        assert "Guidance scale" in client.get("/chapters/3").text
        missing = client.get("/chapters/99")
    assert missing.status_code == 404 and "There is no notebook for chapter 99" in missing.text


def test_memory_is_flat_over_many_pictures(page, client):
    def draw(n: int) -> int:
        client.predict(api_name="/text", **SETTINGS | {"seed": n, "num_inference_steps": 2, "lora_icon": n % 2})
        return psutil.Process().memory_info().rss

    used = [draw(n) for n in range(PICTURES)]
    early, late = used[PICTURES // 3], used[-1]
    assert late - early < 40e6, f"{(late - early) / 1e6:.0f} MB more after {PICTURES - PICTURES // 3} pictures"


def test_a_saved_picture_opens_as_any_other(client):
    path = newest(client.predict(api_name="/text", **SETTINGS))
    found = read_image(path)
    image = opened(path.read_bytes()).convert("RGB")
    assert pixel_hash(image) == found.data.pixels and found.parameters.fields["Seed"] == "7"
    assert Image.open(io.BytesIO(path.read_bytes())).format == "PNG"
