"""The benchmark measures what it says: fresh processes, known memory, changes that really are made, readable data."""

import dataclasses
import json
import operator
import os
import re
import time
import types

import pytest
import tomesd
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, FusedAttnProcessor2_0, SlicedAttnProcessor
from torch.utils.flop_counter import FlopCounterMode

from sdhelpers import __main__ as command_line
from sdhelpers import benchmark, device, models
from sdhelpers.benchmark import fresh, measurement, report, shapes, variants
from sdhelpers.benchmark.fresh import FreshProcessError, MemoryMeter, in_fresh_process, tidy_memory
from sdhelpers.benchmark.measurement import Row


@pytest.fixture
def own():
    """A pipeline of one's own, to change: call it with a combination."""

    def build(*names: str):
        pipe = variants.load("sd15", names, "cpu")
        return variants.prepare(pipe, names, "cpu")

    return build


# Fresh processes and memory


def allocate(megabytes: int) -> tuple[int, int, int]:
    """Peaks in bytes: of a block that is filled and dropped, after a reset, and of a second such block."""
    with MemoryMeter("cpu") as meter, tidy_memory():
        before = meter.now()
        block = torch.ones(megabytes * 250_000)
        for _ in range(10_000):
            if meter._peak - before > block.nbytes / 2:  # the watching thread has seen it
                break
            time.sleep(0.005)
        del block
        first = meter.peak - before
        meter.reset()
        between = meter.peak - before
        block = torch.ones(megabytes * 250_000)
        return first, between, meter.peak - before - 0 * block.numel()


def allocate_unseen(megabytes: int) -> int:
    """The peak in bytes of a block that is filled and dropped before the watching thread looks."""
    MemoryMeter._look = lambda self: self._done.wait()  # it never does
    with MemoryMeter("cpu") as meter, tidy_memory():
        before = meter.now()
        block = torch.ones(megabytes * 250_000)
        del block
        return meter.peak - before


@pytest.mark.skipif(not fresh._forget_record(), reason="here a process cannot reset the system's record of it")
@pytest.mark.alone
def test_a_peak_between_two_looks_is_counted():
    assert 190e6 < in_fresh_process(allocate_unseen, 200) < 300e6


@pytest.mark.alone
def test_the_meter_sees_memory_that_was_held_and_forgets_it_when_told():
    first, between, second = in_fresh_process(allocate, 300)
    assert first == pytest.approx(300e6, rel=0.1)
    assert between < first / 10
    assert second == pytest.approx(300e6, rel=0.1)


def test_each_call_has_a_process_of_its_own():
    pids = [in_fresh_process(os.getpid) for _ in range(2)]
    assert len({os.getpid(), *pids}) == 3


def test_a_process_that_fails_or_is_ended_gives_one_sentence():
    with pytest.raises(FreshProcessError, match=r"^ZeroDivisionError: division by zero$"):
        in_fresh_process(operator.truediv, 1, 0)
    with pytest.raises(FreshProcessError, match="want of memory"):
        in_fresh_process(os._exit, 9)


# The changes


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_a_precision_reaches_every_part(own, name):
    pipe = own(name)
    assert {p.dtype for part in variants.parts(pipe).values() for p in part.parameters()} == {variants.check([name])}
    numbers = sum(p.numel() for part in variants.parts(pipe).values() for p in part.parameters())
    assert measurement.weight_bytes(pipe) == pytest.approx(numbers * variants.check([name]).itemsize, rel=1e-4)


def test_switches_of_the_layers_are_set(own):
    pipe = own("fp32", "channels-last", "vae-tiling", "vae-slicing", "fuse-qkv")
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert pipe.vae.use_tiling and pipe.vae.use_slicing
    assert {type(p) for p in pipe.unet.attn_processors.values()} == {FusedAttnProcessor2_0}
    for name, processor in (("attention-naive", AttnProcessor), ("attention-slicing", SlicedAttnProcessor)):
        variants.prepare(pipe, [name], "cpu")
        assert {type(p) for p in pipe.unet.attn_processors.values()} == {processor}


def test_a_kernel_is_left_alone(own):
    kernels = ("flash", "mem_efficient", "math", "cudnn")
    enabled = [getattr(torch.backends.cuda, f"{k}_sdp_enabled") for k in kernels]
    before = [ask() for ask in enabled]
    try:
        variants.VARIANTS["attention-efficient"].apply(None, "cpu")
        assert [ask() for ask in enabled] == [False, True, False, False]
    finally:
        for kernel, value in zip(kernels, before):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(value)


def test_tome_halves_the_tokens_and_comes_off_again(own):
    pipe, seen = own("fp32", "tome"), []
    block = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    block.attn1.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[1]))
    inputs = shapes.unet_inputs(pipe.unet, 128, 1)
    sample = inputs.pop("sample")  # tomesd looks for it among the positional arguments
    with torch.no_grad():
        pipe.unet(sample, **inputs)
        tomesd.remove_patch(pipe)
        pipe.unet(sample, **inputs)
    assert seen == [128, 256]
    assert type(block).__name__ == "BasicTransformerBlock"


def test_tome_finds_attention_where_the_full_resolution_has_none():
    with torch.device("meta"):
        xl = UNet2DConditionModel(**shapes.UNETS["sdxl"])
    variants.VARIANTS["tome"].apply(types.SimpleNamespace(unet=xl), "cpu")
    assert xl._tome_info["args"]["max_downsample"] == 2


def test_eight_bit_weights_are_eight_bits(own):
    pipe = own("fp32", "int8-weights")
    kinds = {type(m) for m in pipe.unet.modules()}
    assert variants.Int8Layer in kinds and not kinds & {torch.nn.Linear, torch.nn.Conv2d}
    layer = next(m for m in pipe.unet.modules() if isinstance(m, variants.Int8Layer))
    assert layer.weight_int8.dtype == torch.int8


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp16-weights", torch.float16), ("bf16-weights", torch.bfloat16), ("fp8-weights", torch.float8_e4m3fn)],
)
def test_weights_are_stored_in_one_format_and_computed_in_another(own, name, dtype):
    pipe = own("fp32", name)
    assert pipe.unet.down_blocks[0].resnets[0].conv1.weight.dtype == dtype
    with torch.no_grad():
        assert pipe.unet(**shapes.unet_inputs(pipe.unet, 64, 1)).sample.dtype == torch.float32


@pytest.mark.parametrize("layer", [torch.nn.Linear(12, 5), torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)])
def test_whole_numbers_survive_int8_exactly(layer):
    weight = torch.randint(-126, 127, layer.weight.shape).float()
    weight.flatten(1)[:, 0] = 127  # so that the scale is 1 for every output
    layer.weight.data = weight
    x = torch.randint(-3, 4, (2, 12) if layer.weight.ndim == 2 else (2, 4, 7, 7)).float()
    assert torch.equal(variants.Int8Layer(layer)(x), layer(x))


def test_offloading_keeps_the_picture_and_says_where_it_begins(own):
    row = Row(("fp32",), 64, steps=2)
    plain = measurement.draw(own("fp32"), row)["image"]
    for name in ("model-offload", "sequential-offload", "group-offload", "disk-offload"):
        assert variants.offloads(["fp16", name])
        assert abs(measurement.draw(own("fp32", name), row)["image"] - plain).max() < 1e-5
    assert not variants.offloads(["fp16", "tome"])


def test_weights_on_the_disk_are_not_in_memory(own):
    pipe = own("fp32", "disk-offload")
    assert all(p.is_meta for p in pipe.unet.parameters())


def test_compiling_waits_for_the_first_call(own):
    pipe = own("fp32", "compile")
    assert pipe.unet._compiled_call_impl is not None


def test_wrong_names_are_refused_in_words():
    with pytest.raises(variants.VariantError, match=r"no change 'fp12'; the benchmark knows fp32,"):
        variants.check(["fp32", "fp12"])
    with pytest.raises(variants.VariantError, match="Begin with fp32, fp16 or bf16, not with tome"):
        variants.check(["tome"])
    with pytest.raises(variants.VariantError, match="no model 'sd3'"):
        variants.load("sd3", ("fp32",), "cpu")


def test_every_planned_row_can_be_made():
    for kind in ("cpu", "cuda"):
        for model in variants.MODELS:
            rows = benchmark.rows(model, kind, 128, compiling=True)
            assert all(variants.check(row.names) for row in rows)
            assert len({row.key for row in rows}) == len(rows)
            assert min(row.steps for row in rows) >= 2, "a step is timed between two"


# The true shapes


def test_the_shapes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        counts = {
            name: {key: sum(p.numel() for p in part.parameters()) for key, part in shapes.parts(name).items()}
            for name in ("sd15", "sdxl")
        }
    assert sum(counts["sd15"].values()) == models.entry("sd15").full.parameters
    assert counts["sdxl"]["unet"] == 2_567_463_684
    assert counts["sdxl"]["text_encoder_2"] == 694_659_840


def test_random_weights_keep_the_size_of_what_passes_through():
    with torch.device("meta"):
        layer = torch.nn.Sequential(torch.nn.Linear(800, 600), torch.nn.LayerNorm(600)).requires_grad_(False)
    block = torch.rand(100_003) * 2 - 1
    shapes.fill(layer, torch.float32, "cpu", block)
    x = torch.randn(50, 800)
    assert float(layer[0](x).std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(layer[1].weight, torch.ones(600))


def test_pretended_operations_are_the_real_ones(pipe):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.unet(**shapes.unet_inputs(pipe.unet, 128, 1))
    assert shapes.step_flops(pipe.unet.config, 128) == counter.get_total_flops()
    assert torch.get_default_dtype() == torch.float32


def test_what_does_not_fit_is_said_before_it_is_tried(monkeypatch):
    memory = type("Memory", (), {"available": 3_000_000_000})
    monkeypatch.setattr(measurement.psutil, "virtual_memory", lambda: memory)
    found = measurement.measure("sd15-shapes", Row(("fp32",), 512, steps=2))
    assert found == {"failed": "does not fit: needs about 7.0 GB, 3.0 GB are free"}


# The table


def pretend_slow(monkeypatch, dtype):
    """Let the probe find what it finds on a processor without arithmetic for a format: forty times less."""
    monkeypatch.setattr(device, "relative_speed", lambda asked, kind="cpu": 0.025 if asked == dtype else 1.0)


def test_an_absurdly_slow_format_is_said_and_not_drawn(monkeypatch):
    pretend_slow(monkeypatch, torch.bfloat16)
    found = measurement.measure("sd15", Row(("bf16",), 128))
    assert found == {"failed": "bf16: some 40 times slower than float32 on this processor; not drawn"}
    assert measurement.obstacle("sd15", Row(("fp32", "bf16-weights"), 128)) is None


def test_a_processor_without_fast_bf16_measures_the_true_shapes_in_fp32(monkeypatch):
    monkeypatch.setattr(report, "relative_speed", lambda dtype: 0.025)
    names = {row.names for row in benchmark.rows("sd15-shapes", "cpu", 512)}
    assert ("fp32", "tome") in names and {n for n in names if n[0] == "bf16"} == {("bf16",)}


def test_the_limit_of_a_slow_format_takes_a_small_product(monkeypatch):
    sides = []
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sides.append(len(a)) or a)
    for dtype in (None, torch.float32):
        pretend_slow(monkeypatch, dtype)
        measurement.matmul_rate("fp32", "cpu", None)
    assert set(sides[:8]) == {2048} and set(sides[8:]) == {512}


@pytest.mark.alone
def test_the_probe_agrees_with_a_larger_product_on_which_formats_to_avoid():
    for dtype in (torch.float16, torch.bfloat16):
        speed = device._product_seconds(torch.float32, "cpu", 384) / device._product_seconds(dtype, "cpu", 384)
        assert (speed < device.SLOW) == (device.slowness(dtype) is not None)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The command with a short plan: what it printed and what it saved."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    patch, printed = pytest.MonkeyPatch(), []
    patch.setattr(
        report, "CPU", [({"repeats": 1}, "fp32; fp32 bf16-weights; fp32 attention-xformers"), ({"batch": 2}, "fp32")]
    )
    patch.setattr(measurement, "best_device", lambda: "cpu")
    patch.setattr(report, "print", lambda *texts, **_: printed.append(" ".join(texts)), raising=False)
    try:
        assert command_line.main(["bench", "--threads", "2", "--save", str(path)]) == 0
    finally:
        patch.undo()
    return path, "\n".join(printed)


@pytest.mark.alone
def test_the_command_prints_and_saves_every_row(results):
    path, printed = results
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert "from a cold Python to the first image" in printed
    for row in map(benchmark.as_row, saved["rows"]):
        assert f"{row.label:<44}" in printed
    assert [r["names"] for r in saved["rows"]] == [
        ["fp32"], ["fp32", "bf16-weights"], ["fp32", "attention-xformers"], ["fp32"]
    ]  # fmt: skip
    assert re.search(r"a guided step of two pictures reaches \d+% of the measured limit", printed)
    assert saved["device"]["kind"] == "cpu" and saved["device"]["memory"] > 1e9
    assert set(saved["versions"]) == {"python", "cuda", *report.LIBRARIES}
    assert path.with_suffix(".png").stat().st_size > 5000


def test_the_measured_rows_are_plausible(results):
    fp32, bf16, xformers, two = json.loads(results[0].read_text(encoding="utf-8"))["rows"]
    assert fp32["weights"] / 2 < bf16["weights"] < fp32["weights"]
    assert fp32["weights"] < fp32["memory"] < 3 * fp32["weights"]
    assert bf16["memory"] < fp32["memory"] < two["memory"]
    assert fp32["difference"] == 0 and 0 < bf16["difference"] < 0.1 and two["difference"] < 0.001
    assert 0 < fp32["share"] < 1
    assert xformers["failed"] == "xformers is not installed"


def test_a_run_that_was_broken_off_goes_on(results, monkeypatch):
    asked = []
    monkeypatch.setattr(report, "measure", lambda model, row, *_: asked.append(row) or {"failed": "not asked for"})
    earlier = json.loads(results[0].read_text(encoding="utf-8"))
    bench = benchmark.Benchmark("sd15", threads=2, save=results[0])
    bench._references[128] = None
    for record in earlier["rows"]:
        bench.add(benchmark.as_row(record))
    assert [row.label for row in asked] == ["fp32 + attention-xformers"], "only what failed is tried again"
    report.write(earlier, results[0])


def test_other_versions_start_anew(results):
    facts = json.loads(results[0].read_text(encoding="utf-8"))
    assert len(report.earlier_rows(results[0], facts)) == 3
    assert report.earlier_rows(results[0], facts | {"versions": {"torch": "1.0"}}) == {}


def test_without_data_the_table_says_so():
    planned = benchmark.rows("sdxl-shapes", "cuda", 1024)
    lines = benchmark.table(None, planned).split("\n")
    assert "not measured yet" in lines[0]
    assert len(lines) == 2 + len(planned) and all(line.endswith("not measured yet") for line in lines[2:])


def test_the_fastest_row_keeps_the_picture():
    def record(names, speed, difference, size=128):
        row = dataclasses.asdict(Row(tuple(names), size))
        return row | {"steps_per_second": speed, "difference": difference}

    rows = [record(["fp32"], 1, 0), record(["fp16"], 5, 0.002), record(["tome"], 9, 0.2), record(["bf16"], 8, None)]
    rows += [record(["fp16"], 20, 0, size=256), dataclasses.asdict(Row(("x",), 128)) | {"failed": "no"}]
    assert benchmark.fastest({"rows": rows}, 0.01) == rows[1]


@pytest.mark.parametrize("path", sorted(report.RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_results_say_what_they_were_measured_on(path):
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem == f"{saved['model']}-{saved['device']['kind']}"
    assert saved["versions"]["torch"] and saved["device"]["name"] and saved["limits"]
    size = report.SIZES.get(saved["model"], 128)
    planned = {row.key for row in benchmark.rows(saved["model"], saved["device"]["kind"], size, compiling=True)}
    assert {benchmark.as_row(record).key for record in saved["rows"]} == planned
    assert "/" not in path.read_text(encoding="utf-8"), "no paths"
