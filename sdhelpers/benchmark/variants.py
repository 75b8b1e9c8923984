"""The changes of chapter 7 by name, and the pipelines to make them on: what the benchmark measures.

    names = ("fp16", "channels-last", "vae-tiling")
    pipe = prepare(load("sd15", names, "cuda"), names, "cuda")

A combination is a tuple of names; the first says the precision. Built in chapter 7.
"""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence

import accelerate
import tomesd
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

from sdhelpers import models
from sdhelpers.benchmark import shapes
from sdhelpers.schedulers import build_scheduler

MODELS = ("sd15", "sd15-shapes", "sdxl-shapes")
Apply = Callable[[DiffusionPipeline, str], None]  # the pipeline and the device that it will run on


class VariantError(ValueError):
    """A model or a change that the benchmark does not know or cannot make here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One change: what it is, what the chapter says it moves, and how it is made."""

    change: str
    moves: str
    apply: Apply
    dtype: torch.dtype | None = None  # set for the precisions
    places: bool = False  # it moves the weights itself, so the pipeline must not be sent to the device


VARIANTS: dict[str, Variant] = {}  # in the order in which they are made


def change(name: str, what: str, moves: str, **how) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        VARIANTS[name] = Variant(what, moves, apply, **how)
        return apply

    return register


def allow_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


@change("fp32", "32-bit numbers everywhere, as PyTorch multiplies them unasked", "the reference", dtype=torch.float32)
def fp32(pipe, device):
    allow_tf32(products=False, convolutions=True)  # PyTorch's own defaults


@change("no-tf32", "32-bit numbers, multiplied with all their digits", "slower on recent GPUs")
def no_tf32(pipe, device):
    allow_tf32(products=False, convolutions=False)


@change("tf32", "32-bit numbers, multiplied with 10-bit fractions", "faster on recent GPUs")
def tf32(pipe, device):
    allow_tf32(products=True, convolutions=True)


@change("fp16", "16 bits, 5 of them exponent", "half the memory, faster on a GPU", dtype=torch.float16)
@change("bf16", "16 bits, 8 of them exponent", "half the memory, coarser than fp16", dtype=torch.bfloat16)
def half(pipe, device):
    """The weights were loaded like that."""


@change("random-weights", "other numbers in every matrix", "nothing but the picture")
def random_weights(pipe, device):
    for part in parts(pipe).values():
        for weight in (w.data for w in part.parameters() if w.ndim > 1):
            bound = (3 / weight[0].numel()) ** 0.5
            weight.uniform_(-bound, bound)


def stored_as(dtype: torch.dtype) -> Apply:
    """Keep the UNet's weights in a smaller format; each layer computes in the pipeline's own precision."""

    def apply(pipe: DiffusionPipeline, device: str) -> None:
        pipe.unet.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=pipe.unet.dtype)

    return apply


change("fp16-weights", "UNet weights stored as fp16, computed in fp32", "half the UNet")(stored_as(torch.float16))
change("bf16-weights", "UNet weights stored as bf16, computed in fp32", "the same")(stored_as(torch.bfloat16))
change("fp8-weights", "UNet weights stored in 8 bits", "a quarter of fp32's UNet, slower")(
    stored_as(torch.float8_e4m3fn)
)


@change("int8-weights", "UNet weights stored as whole numbers", "a quarter of fp32's UNet, slower")
def int8_weights(pipe, device):
    to_int8(pipe.unet)


@change("channels-last", "a pixel's channels side by side in memory", "speed")
def channels_last(pipe, device):
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)


@change("fuse-qkv", "query, key and value by one matrix", "speed, by a little")
def fuse_qkv(pipe, device):
    pipe.fuse_qkv_projections()


@change("attention-naive", "all scores in memory at once", "more memory")
def attention_naive(pipe, device):
    pipe.unet.set_attn_processor(AttnProcessor())


@change("attention-slicing", "naive, one head of one picture after the other", "less memory than naive, slower")
def attention_slicing(pipe, device):
    pipe.enable_attention_slicing(1)


@change("attention-xformers", "the xformers package", "as PyTorch's own")
def attention_xformers(pipe, device):
    if importlib.util.find_spec("xformers") is None:
        raise VariantError("xformers is not installed")
    pipe.enable_xformers_memory_efficient_attention()


def only_kernel(kernel: str) -> Apply:
    """Leave `scaled_dot_product_attention` a single one of PyTorch's kernels, in this whole process.

    `unet.set_attention_backend` would be the library's way, but Diffusers 0.42 passes it on to newer models
    only: a UNet takes no notice and says nothing.
    """

    def apply(pipe: DiffusionPipeline, device: str) -> None:
        for name in ("flash", "mem_efficient", "math", "cudnn"):
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(name == kernel)

    return apply


change("attention-math", "PyTorch's plain kernel", "more memory")(only_kernel("math"))
change("attention-flash", "PyTorch's flash kernel", "least memory, fastest")(only_kernel("flash"))
change("attention-efficient", "PyTorch's memory-efficient kernel", "least memory")(only_kernel("mem_efficient"))
change("attention-cudnn", "cuDNN's kernel", "least memory, fastest")(only_kernel("cudnn"))


@change("vae-tiling", "decode in overlapping tiles", "less memory for decoding")
def vae_tiling(pipe, device):
    pipe.vae.enable_tiling()


@change("vae-slicing", "decode one picture after the other", "less memory for decoding a batch")
def vae_slicing(pipe, device):
    pipe.vae.enable_slicing()


@change("tome", "half of the tokens merged", "faster on large pictures, another picture")
def tome(pipe, device):
    """tomesd touches only layers of the full resolution unless told otherwise, and SDXL has no attention there.

    It chooses at random from PyTorch's own generator, which the pipeline's seed does not reach.
    """
    torch.manual_seed(0)
    attends_at_once = pipe.unet.config.down_block_types[0].startswith("CrossAttn")
    tomesd.apply_patch(pipe.unet, ratio=0.5, max_downsample=1 if attends_at_once else 2)


@change("compile", "torch.compile the UNet", "faster after a long first call")
def compiled(pipe, device):
    pipe.unet.compile()


@change("compile-autotune", "the same, trying many kernels", "faster after a longer first call")
def compiled_autotune(pipe, device):
    pipe.unet.compile(mode="max-autotune")


@change("model-offload", "one part at a time on the device", "memory of the largest part, slower", places=True)
def model_offload(pipe, device):
    pipe.enable_model_cpu_offload(device=device)


@change("sequential-offload", "one layer at a time on the device", "least memory, slowest", places=True)
def sequential_offload(pipe, device):
    """Diffusers refuses a machine without an accelerator; Accelerate's own function does not."""
    if device != "cpu":
        pipe.enable_sequential_cpu_offload(device=device)
        return
    for part in parts(pipe).values():
        accelerate.cpu_offload(part, "cpu", offload_buffers=True)


@change("group-offload", "one block at a time on the device", "memory of a block", places=True)
def group_offload(pipe, device):
    on, off = torch.device(device), torch.device("cpu")
    pipe.enable_group_offload(on, off, offload_type="block_level", num_blocks_per_group=1)


@change("group-offload-stream", "layers, sent while others compute", "least memory, less slow", places=True)
def group_offload_stream(pipe, device):
    on, off = torch.device(device), torch.device("cpu")
    pipe.enable_group_offload(on, off, offload_type="leaf_level", use_stream=True)


@change("disk-offload", "layers wait on the disk", "least memory of all, slow", places=True)
def disk_offload(pipe, device):
    """The one offload that saves memory without a GPU."""
    pipe.offload_folder = tempfile.TemporaryDirectory()  # lives as long as the pipeline
    for name, part in parts(pipe).items():
        folder = os.path.join(pipe.offload_folder.name, name)
        accelerate.disk_offload(part, folder, torch.device(device), offload_buffers=True)


class Int8Layer(torch.nn.Module):
    """A linear layer or convolution that keeps its weights as int8 with one scale an output channel.

    They are made floating again for each call, so this saves memory and costs time. Built in chapter 7.
    """

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv2d):
        super().__init__()
        largest = layer.weight.detach().abs().flatten(1).amax(1).clamp(min=1e-7)  # [outputs]
        scale = (largest / 127).view(-1, *[1] * (layer.weight.ndim - 1))
        self.register_buffer("scale", scale)
        self.register_buffer("weight_int8", (layer.weight.detach() / scale).round().to(torch.int8))
        self.bias, self.how = layer.bias, {}
        if isinstance(layer, torch.nn.Conv2d):
            self.how = {"stride": layer.stride, "padding": layer.padding}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight_int8.to(x.dtype) * self.scale
        return F.conv2d(x, weight, self.bias, **self.how) if self.how else F.linear(x, weight, self.bias)


def to_int8(module: torch.nn.Module) -> None:
    """Replace every linear layer and convolution inside, in place. Built in chapter 7."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear | torch.nn.Conv2d):
            setattr(module, name, Int8Layer(child))
        else:
            to_int8(child)


def parts(pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """The pipeline's neural networks by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def check(names: Sequence[str]) -> torch.dtype:
    """The precision of a combination. Raises VariantError for an unknown name or one that does not begin with it."""
    for name in names:
        if name not in VARIANTS:
            raise VariantError(f"There is no change {name!r}; the benchmark knows {', '.join(VARIANTS)}.")
    if not names or VARIANTS[names[0]].dtype is None:
        raise VariantError(f"Begin with fp32, fp16 or bf16, not with {' + '.join(names) or 'nothing'}.")
    return VARIANTS[names[0]].dtype


def load(model: str, names: Sequence[str], device: str, tier: str = "pocket") -> DiffusionPipeline:
    """The pipeline to measure in the combination's precision, on the device, or on the CPU for offloading."""
    if model not in MODELS:
        raise VariantError(f"There is no model {model!r} to measure; choose one of {', '.join(MODELS)}.")
    dtype, place = check(names), "cpu" if offloads(names) else device
    if model.endswith("-shapes"):
        pipe = shapes.pipeline(model.removesuffix("-shapes"), dtype, place)
    else:
        folder, weights = models.locate(model, tier), models.variant(model, tier)
        pipe = StableDiffusionPipeline.from_pretrained(folder, variant=weights, dtype=dtype, safety_checker=None)
        for part in parts(pipe).values():  # weights read as they lie in the file are the file's memory, not ours
            part.load_state_dict({key: value.clone() for key, value in part.state_dict().items()}, assign=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = build_scheduler("DPM++ 2M", pipe.scheduler.config)
    return pipe.to(place)


def offloads(names: Sequence[str]) -> bool:
    """Whether one of the changes moves the weights by itself. Such a pipeline must begin on the CPU: after
    `.to("cuda")` all of its weights have been on the GPU already, and nothing is saved."""
    return any(VARIANTS[name].places for name in names)


def prepare(pipe: DiffusionPipeline, names: Sequence[str], device: str) -> DiffusionPipeline:
    """Make the named changes, in the order of VARIANTS, to a pipeline that is where it shall be."""
    for name, variant in VARIANTS.items():
        if name in names:
            variant.apply(pipe, device)
    return pipe
