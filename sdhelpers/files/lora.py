"""LoRA files of both formats: read, merged into a pipeline's weights, and taken out again without a trace.

    loras = MergedLoras(pipe)
    loras.add("icon", path)              # .safetensors, from Kohya's scripts or from Diffusers and PEFT
    loras.set_weights(icon=0.8)          # any number of files, negative weights too
    loras.restore()                      # bit for bit the weights from before

Every weight matrix becomes W + weight * alpha / rank * up @ down (Hu et al., LoRA, 2021). Built in chapter 8.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

PARTS = ("unet", "text_encoder", "text_encoder_2")
KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
KOHYA_ENDINGS = {".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"}
DIFFUSERS_ENDINGS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",  # before PEFT
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",  # text encoders before PEFT
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",  # attention processors, the oldest
    "_lora.up.weight": "up",
}
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a third factor",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
}
SDXL_LAYERS = ("input_blocks_", "middle_block_", "output_blocks_")  # Kohya's scripts keep its checkpoint's own names
SETTINGS = "lora_adapter_metadata"  # where Diffusers keeps rank and alpha
BASES = ("ss_base_model_version", "modelspec.architecture", "base")  # where a file names the model that it was made for

Place = tuple[str, str]  # a part of the pipeline, and a layer's path in it with underscores for dots


class LoraError(ValueError):
    """A LoRA file that cannot be used; the message is one sentence for the reader."""


@dataclasses.dataclass(frozen=True)
class LoraLayer:
    """What a file holds for one layer: `down` [rank, in, ...], `up` [out, rank, ...] and `alpha`."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def fits(self, shape: torch.Size) -> bool:
        """Whether the update has the shape of a layer's weight."""
        return self.up.shape[0] == shape[0] and self.down[0].numel() == math.prod(shape[1:])

    def update(self, shape: torch.Size) -> torch.Tensor:
        """alpha / rank * up @ down in the shape of a layer's weight, float32."""
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()  # [out, in * height * width]
        return (product * (self.alpha / self.rank)).reshape(shape)


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """A read file: its format ("kohya" or "diffusers"), its layers by place, and its free metadata."""

    name: str
    format: str
    layers: dict[Place, LoraLayer]
    metadata: dict[str, str]

    @property
    def base_model(self) -> str:
        """The model that the file says it was trained on ("sd_v1", "sdxl_base_v1-0"), or "" when it says nothing."""
        return next((self.metadata[key] for key in BASES if self.metadata.get(key)), "")

    @property
    def tags(self) -> dict[str, int]:
        """How often each tag stood in the captions of the training, as Kohya's scripts note it; the commonest first."""
        counts: Counter[str] = Counter()
        try:
            for folder in json.loads(self.metadata.get("ss_tag_frequency", "{}")).values():
                counts.update({tag.strip(): int(count) for tag, count in folder.items()})
        except (ValueError, TypeError, AttributeError, OverflowError):
            return {}  # a damaged note, and only a note
        return dict(counts.most_common())


def read_lora(path: str | Path) -> LoraFile:
    """Read a LoRA file of either format.

    Raises LoraError for a file that is damaged, is of another kind (LoHa, DoRA, ...), or lacks a half of a layer.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise LoraError(f"{path.name} is no .safetensors file; older formats are pickles, convert them first.")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path.name} cannot be read: it is missing, damaged or no safetensors file.") from error
    kohya = any(key.startswith(tuple(KOHYA_PREFIXES)) for key in tensors)
    split = _split_kohya if kohya else _split_diffusers
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        part, layer, what = split(path.name, key)
        found.setdefault((part, layer), {})[what] = tensor
    if not found:
        raise LoraError(f"{path.name} holds no LoRA layers.")
    settings = _settings(path.name, metadata)
    layers = {
        (part, layer.replace(".", "_")): _layer(path.name, part, layer, halves, settings)
        for (part, layer), halves in found.items()
    }
    return LoraFile(path.name, "kohya" if kohya else "diffusers", layers, metadata)


def _split_kohya(file: str, key: str) -> tuple[str, str, str]:
    """lora_unet_mid_block_..._to_q.lora_down.weight as part, path and "down"."""
    for prefix, part in KOHYA_PREFIXES.items():
        for ending, what in KOHYA_ENDINGS.items():
            if key.startswith(prefix) and key.endswith(ending):
                return part, key[len(prefix) : -len(ending)], what
    raise _unknown(file, key)


def _split_diffusers(file: str, key: str) -> tuple[str, str, str]:
    """unet.mid_block....to_q.lora_A.weight as part, path and "down"."""
    part, _, path = key.removeprefix("base_model.model.").partition(".")
    for ending, what in DIFFUSERS_ENDINGS.items():
        if part in PARTS and path.endswith(ending):
            path = path.removesuffix(ending)
            if ".processor." in path:
                path = re.sub(r"to_out$", "to_out.0", path.replace(".processor.", "."))
            return part, path, what
    raise _unknown(file, key)


def _unknown(file: str, key: str) -> LoraError:
    for sign, kind in OTHER_KINDS.items():
        if sign in key:
            return LoraError(f"{file} is a {kind} file, which is another kind of adapter; only LoRA is supported.")
    return LoraError(f"{file} has a key that belongs to no LoRA format: {key!r}.")


def _settings(file: str, metadata: dict[str, str]) -> dict:
    try:
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    except ValueError as error:
        raise LoraError(f"The settings in the metadata of {file} are damaged.") from error
    if not isinstance(settings, dict):
        raise LoraError(f"The settings in the metadata of {file} are damaged.")
    return settings


def _layer(file: str, part: str, path: str, halves: dict[str, torch.Tensor], settings: dict) -> LoraLayer:
    name = f"{part}.{path}"
    if "down" not in halves or "up" not in halves:
        raise LoraError(f"{file} has only one half of the layer {name}: both down (A) and up (B) are needed.")
    down, up = halves["down"], halves["up"]
    alike = down.ndim in (2, 4) and up.ndim == down.ndim and down.numel() and up.numel()
    if not alike or down.shape[0] != up.shape[1] or up[0, 0].numel() != 1:
        raise LoraError(f"{file}: the halves of {name} do not fit, {list(down.shape)} and {list(up.shape)}.")
    try:
        alpha = float(halves["alpha"]) if "alpha" in halves else _alpha_from(settings, part, path, down.shape[0])
    except (ValueError, TypeError, RuntimeError) as error:
        raise LoraError(f"{file}: the alpha of {name} is no number.") from error
    if not (math.isfinite(alpha) and down.float().isfinite().all() and up.float().isfinite().all()):
        raise LoraError(f"{file} is damaged: not all numbers of {name} are finite.")
    return LoraLayer(down, up, alpha)


def _alpha_from(settings: dict, part: str, path: str, rank: int) -> float:
    """The alpha that Diffusers' metadata gives a layer; without metadata it equals the rank."""
    alpha = settings.get(f"{part}.lora_alpha", rank)
    for pattern, other in (settings.get(f"{part}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):  # as PEFT compares them
            alpha = other
            break
    return float(alpha) * (math.sqrt(rank) if settings.get(f"{part}.use_rslora") else 1)


class MergedLoras:
    """LoRAs merged into a pipeline's own weights. The weights from before are kept, so the way back is exact.

    `weights` says which file is in with which weight.
    """

    def __init__(self, pipe):
        self.weights: dict[str, float] = {}
        self._files: dict[str, LoraFile] = {}
        self._originals: dict[Place, torch.Tensor] = {}
        self._modules = target_layers(pipe)

    def add(self, name: str, file: str | Path | LoraFile) -> LoraFile:
        """Get a file ready under a name, with weight 0. Raises LoraError when any layer does not fit the model."""
        file = file if isinstance(file, LoraFile) else read_lora(file)
        self._check_fit(file)
        if self.weights.get(name):
            self.set_weights(**{**self.weights, name: 0.0})
        self._files[name], self.weights[name] = file, 0.0
        return file

    def _check_fit(self, file: LoraFile) -> None:
        if any(_is_sdxl(place) for place in file.layers if place not in self._modules):
            raise LoraError(f"{file.name} is a LoRA for SDXL, which this loader does not read; SDXL is chapter 16.")
        another = f"{file.name} is for another model" + f" ({file.base_model!r})" * bool(file.base_model)
        for place, layer in file.layers.items():
            module = self._modules.get(place)
            if module is None:
                raise LoraError(f"{another}: there is no layer {'.'.join(place)} here.")
            if not layer.fits(module.weight.shape):
                there = list(module.weight.shape)
                raise LoraError(f"{another}: {'.'.join(place)} has the shape {there} here.")

    @torch.no_grad()
    def set_weights(self, **weights: float) -> None:
        """Merge the named files with these weights, and take all others out. Raises LoraError for other names."""
        unknown = sorted(set(weights) - set(self._files))
        if unknown:
            raise LoraError(f"No LoRA is loaded as {', '.join(unknown)}; there are {', '.join(self._files) or 'none'}.")
        self.weights = {name: float(weights.get(name, 0.0)) for name in self._files}
        active = {name: weight for name, weight in self.weights.items() if weight}
        changed = {place for name in active for place in self._files[name].layers}
        for place in changed | set(self._originals):
            weight = self._modules[place].weight
            if place not in self._originals:
                self._originals[place] = weight.detach().clone()
            total = self._originals[place].float()
            for name, amount in active.items():
                if place in self._files[name].layers:
                    update = self._files[name].layers[place].update(weight.shape)
                    total = total + amount * update.to(total.device)
            weight.copy_(total)

    def restore(self) -> None:
        """Put back the weights from before, bit for bit."""
        self.set_weights()


def _is_sdxl(place: Place) -> bool:
    """Whether only SDXL has a layer of this name: its second text encoder, or its checkpoint's names for the UNet."""
    part, path = place
    return part == "text_encoder_2" or (part == "unet" and path.startswith(SDXL_LAYERS))


def target_layers(pipe) -> dict[Place, torch.nn.Module]:
    """Every linear layer and convolution of UNet and text encoders, by its place.

    Raises LoraError while PEFT has its own layers in the model, because then the names are others.
    """
    layers: dict[Place, torch.nn.Module] = {}
    for part in PARTS:
        for path, module in (getattr(pipe, part, None) or torch.nn.Module()).named_modules():
            if hasattr(module, "base_layer"):
                raise LoraError("Other LoRAs are loaded into this pipeline: call pipe.unload_lora_weights() first.")
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                layers[part, path.replace(".", "_")] = module
    return layers
