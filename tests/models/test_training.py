"""The loop that every recipe shares takes real steps, in the precision that the probe finds fast here."""

import torch

import loop
import places
import stages
from sdhelpers.device import SLOW, relative_speed


class Numbers(torch.utils.data.Dataset):
    """Endless pairs of noise and what a convolution with known weights makes of it."""

    def __init__(self):
        self.truth = torch.nn.Conv2d(4, 4, 3, padding=1)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(number))


def trained(monkeypatch, folder, steps: int, probe=None) -> tuple[bool, loop.Training]:
    """A small model trained to recover a convolution, with options as a config and a command line give them."""
    monkeypatch.setattr(places, "RUNS", folder)
    monkeypatch.setattr(stages, "CONFIGS", folder)
    (folder / "small.toml").write_text("steps = 1\nbatch = 8\nlr = 1e-2\nprobe_every = 40\n", encoding="utf-8")
    options = stages.options("small", arguments=["--steps", str(steps), "--decay", "0"])
    torch.manual_seed(0)
    data, model = Numbers(), torch.nn.Conv2d(4, 4, 3, padding=1)
    run = loop.Training("small", model, options)

    def loss_of(model, x, y):
        loss = (model(x).float() - y).square().mean()
        return loss, {"plain_mse": loss}

    def prepare(x):
        return x.to(run.device), data.truth(x).float().to(run.device)

    return run.run(data, prepare, loss_of, probe=probe), run


def test_steps_are_taken_resumed_and_lower_the_loss_in_the_precision_that_is_fast(tmp_path, monkeypatch):
    done, first = trained(monkeypatch, tmp_path, 40)
    assert done and first.progress.step == 40
    kind = loop.best_device()
    assert (first.accelerator.mixed_precision == "bf16") == (relative_speed(torch.bfloat16, kind) > 1)
    assert first.accelerator.mixed_precision == "no" or relative_speed(torch.bfloat16, kind) > SLOW
    done, second = trained(monkeypatch, tmp_path, 120)
    assert done and second.progress.step == 120, "the second run goes on from the first one's checkpoint"
    losses = [entry["plain_mse"] for entry in second.progress.history]
    assert losses[-1] < 0.5 * losses[0]


def test_a_probe_looks_now_and_then_and_changes_nothing(tmp_path, monkeypatch):
    asked = []

    def probe(model, step):
        asked.append((step, model.training))
        torch.rand(7)  # whatever it draws by chance
        return {"seen": float(step)}

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, alone = trained(monkeypatch, tmp_path / "a", 80)
    _, probed = trained(monkeypatch, tmp_path / "b", 80, probe)
    assert asked == [(0, False), (40, False), (80, False)] and probed.model.training
    assert [(h["step"], h["seen"]) for h in probed.progress.history if "seen" in h] == [(0, 0), (40, 40), (80, 80)]
    for one, other in zip(alone.model.parameters(), probed.model.parameters()):
        assert torch.equal(one, other)


def test_an_absurdly_slow_bf16_is_not_trained_in(monkeypatch):
    monkeypatch.setattr(loop, "relative_speed", lambda dtype, device: 0.025)
    assert loop.precision() == "no"
    monkeypatch.setattr(loop, "relative_speed", lambda dtype, device: 4.0)
    assert loop.precision() == "bf16"
