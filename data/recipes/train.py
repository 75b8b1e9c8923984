"""Train one part of a model, as its recipe (parts/NAME.py) and a stage of its config (configs/NAME.toml) say.

    python data/recipes train NAME [--stage 1] [options]
    python data/recipes train NAME --help        the part's own options

Without --stage, the last one. Interrupted, the same command goes on from the checkpoint in runs/.
"""

import time
from collections.abc import Sequence

import torch

import export
import recipe
import stages
from card import facts
from loop import Training, cpu_threads, stacked
from places import export_of


def main(arguments: Sequence[str]) -> None:
    name, rest = stages.named(arguments, __doc__, stages.names(), "recipe")
    module = recipe.module(name)
    train(name, module.RECIPE, stages.options(name, module.__doc__, rest))


def train(name: str, chosen: recipe.Recipe, options: recipe.Options) -> None:
    """Build, train, and export what came of it, each average of the weights in a folder of its own."""
    started = time.monotonic()
    torch.manual_seed(0)
    model = chosen.build(options)
    if chosen.loss is None:
        fitted = facts(name, options, 1, options.samples, time.monotonic() - started, cpu_threads())
        export.finish(name, chosen, model, export_of(options.run or name), fitted, options)
        return
    training = Training(name, model, options)
    loss, dataset = chosen.loss(training), chosen.data(options)
    collate, probe = getattr(dataset, "collate", stacked), getattr(loss, "probe", None)
    training.run(dataset, loss.prepare, loss.loss_of, collate, probe)
    for folder, average in {"export": training.ema, "export_long": training.long_ema}.items():
        if average:
            model = training.averaged_model(average)
            export.finish(name, chosen, model, training.folder / folder, training.facts(), options)
