"""What ComfyUI writes into its PNG files, read as the `parameters` of other programs.

    parameters = read_comfyui(texts)  # None where there is no picture's graph

The chunk `prompt` is the graph that was run, {number: {"class_type": ..., "inputs": {...}}}, where an input is a value
or a link [number of the other node, which of its outputs]. The chunk `workflow` is the same graph as the editor shows
it, with values in the order of the widgets; it is read where `prompt` is missing. A graph can do anything: what is
read is one sampler, that of the saved picture (of several the one that the others go on from), and what leads to it.
Source: files made by ComfyUI. Built in chapter 19.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from sdhelpers.metadata.a1111 import Parameters

SAMPLERS = {  # by ComfyUI's names
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "dpmpp_2m": "DPM++ 2M",
}
SCHEDULES = {"normal": "", "karras": "Karras"}
WIDGETS = {  # the values of a node in the editor, in their order
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "CLIPTextEncode": ("text",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
}
UNDERSTOOD = {*WIDGETS, "VAEDecode", "SaveImage", "PreviewImage"}
Graph = dict[str, dict[str, Any]]  # {number: {"class_type": str, "inputs": dict}}


def read_comfyui(texts: dict[str, str]) -> Parameters | None:
    """The parameters in a file's texts, or None where these hold no graph with a sampler."""
    graph = graph_of(texts.get("prompt", "")) or graph_of_workflow(texts.get("workflow", ""))
    saved = [number for number, node in graph.items() if node["class_type"] in ("SaveImage", "PreviewImage")]
    before = [node for number in saved[:1] for node in behind(graph, [number, 0])]
    samplers = samplers_of(before) or samplers_of(graph.values())[::-1]
    if not samplers:
        return None
    found, others = _parameters(graph, samplers[-1]), len(samplers_of(graph.values())) - 1
    return replace(found, fields=found.fields | {"Other samplers": str(others)}) if others else found


def samplers_of(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The inputs of those nodes that are samplers, in their order."""
    return [node["inputs"] for node in nodes if {"seed", "steps", "cfg", "sampler_name"} <= set(node["inputs"])]


def graph_of(text: str) -> Graph:
    """The nodes of a `prompt` chunk that are built as they must be; none where the text is something else."""
    values = _json(text)
    nodes = values.items() if isinstance(values, dict) else ()
    return {str(number): node for number, node in nodes if _is_node(node)}


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def graph_of_workflow(text: str) -> Graph:
    """The same from a `workflow` chunk, with the values of the nodes in WIDGETS."""
    values = _json(text)
    nodes, links = ([], []) if not isinstance(values, dict) else (values.get("nodes"), values.get("links"))
    if not isinstance(nodes, list) or not isinstance(links, list):
        return {}
    sources = {link[0]: [str(link[1]), link[2]] for link in links if _is_link(link)}
    graph = {}
    for node in nodes:
        if isinstance(node, dict) and isinstance(node.get("type"), str):
            kind, widgets = node["type"], node.get("widgets_values")
            inputs = dict(zip(WIDGETS.get(kind, ()), widgets if isinstance(widgets, list) else []))
            for slot in node.get("inputs") if isinstance(node.get("inputs"), list) else []:
                if isinstance(slot, dict) and isinstance(slot.get("link"), int) and slot["link"] in sources:
                    inputs[str(slot.get("name"))] = sources[slot["link"]]
            graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


def _is_link(link: Any) -> bool:
    """[number, from node, from output, to node, to input, kind]"""
    return isinstance(link, list) and len(link) >= 5 and all(isinstance(part, int | str) for part in link[:3])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def behind(graph: Graph, start: Any) -> Iterator[dict[str, Any]]:
    """The node that a link leads to, and all nodes behind it, the nearest first; each once."""
    waiting, seen = [start], set()
    for link in waiting:
        number = str(link[0]) if isinstance(link, list) and len(link) == 2 else None
        if number in graph and number not in seen:
            seen.add(number)
            yield graph[number]
            waiting += graph[number]["inputs"].values()


def _first(graph: Graph, start: Any, name: str) -> str:
    """The first value of that name behind a link, as text."""
    values = (node["inputs"].get(name) for node in behind(graph, start))
    return next((str(value) for value in values if isinstance(value, str | int | float)), "")


def _parameters(graph: Graph, own: dict[str, Any]) -> Parameters:
    """What a sampler's own inputs and the nodes behind them say, under the web UI's names."""
    prompt, negative = (_first(graph, own.get(side), "text") for side in ("positive", "negative"))
    before = behind(graph, own.get("model"))
    loras = [node["inputs"] for node in before if node["class_type"] == "LoraLoader"]
    tags = "".join(f" <lora:{lora.get('lora_name')}:{lora.get('strength_model')}>" for lora in reversed(loras))
    skipped = _first(graph, own.get("positive"), "stop_at_clip_layer")
    other = [lora for lora in loras if lora.get("strength_clip", 1) != lora.get("strength_model", 1)]
    batch = _first(graph, own.get("latent_image"), "batch_size")
    strange = sorted({node["class_type"] for node in graph.values()} - UNDERSTOOD)
    name, schedule = str(own["sampler_name"]), str(own.get("scheduler", "normal"))
    width, height = (_first(graph, own.get("latent_image"), side) for side in ("width", "height"))
    fields = {
        "Steps": str(own["steps"]),
        "Sampler": SAMPLERS.get(name, name),
        "Schedule type": SCHEDULES.get(schedule, schedule),
        "CFG scale": str(own["cfg"]),
        "Seed": str(own["seed"]),
        "Size": f"{width}x{height}" if width and height else "",
        "Model": _first(graph, own.get("model"), "ckpt_name"),
        "Clip skip": skipped.removeprefix("-"),
        "Denoising strength": "" if own.get("denoise", 1) == 1 else str(own["denoise"]),
        "LoRA in the text encoder": ", ".join(
            f"{lora.get('lora_name')} {lora.get('strength_clip', 1)}" for lora in other
        ),
        "Batch size": "" if batch == "1" else batch,
        "Other nodes": ", ".join(strange),
        "Version": "ComfyUI",
    }
    return Parameters(prompt + tags, negative, {key: value for key, value in fields.items() if value})
