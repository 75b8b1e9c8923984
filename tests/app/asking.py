"""Ways to ask the app: settings that are good, and requests byte by byte, as no client of good manners sends them."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

SETTINGS = {
    "prompt": "a cartoon of a cat on a beach",
    "negative_prompt": "",
    "seed": 7,
    "num_inference_steps": 3,
    "guidance_scale": 3,
    "scheduler": "DPM++ 2M",
    "width": 128,
    "height": 128,
    "lora_detail": 0,
    "lora_hedgehog": 0,
    "lora_icon": 0,
}
TYPE = {"meta": {"_type": "gradio.FileData"}}  # by which Gradio knows a file in a request


def number_of(page, name: str) -> int:
    """The number of an event by the name of its endpoint."""
    return next(number for number, event in page.fns.items() if event.api_name == name)


def data_for(page, name: str, **values) -> list:
    """The values of an endpoint's fields in their order; what holds the session's state is left to the server."""
    event = page.fns[number_of(page, name)]
    values = SETTINGS | values
    return [values.get(field) for field in event.input_parameter_names]


@contextmanager
def asked(page, name: str, data: list, session: str | None = None) -> Iterator[Iterator[dict]]:
    """Send a request and give its messages as they come; leaving the block hangs up."""
    session = session or uuid.uuid4().hex
    body = json.dumps({"data": data, "fn_index": number_of(page, name), "session_hash": session})  # NaN passes
    with httpx.Client(base_url=f"{page.local_url}gradio_api/", timeout=120) as client:
        sent = client.post("queue/join", content=body, headers={"Content-Type": "application/json"})
        sent.raise_for_status()
        with client.stream("GET", "queue/data", params={"session_hash": session}) as stream:
            yield (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))


def last_message(page, name: str, data: list) -> dict:
    """The message with which a request ends."""
    with asked(page, name, data) as messages:
        return next(message for message in messages if message["msg"] == "process_completed")
