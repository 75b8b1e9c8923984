"""What a training is told: a stage of configs/NAME.toml, and the command line over it.

A config's top level holds what all stages share, each [[stage]] what is its own. Whatever is there is an option, too:
`kl = 3e-4` is `--kl 3e-4`. Values that begin with "data/" are places in this repository. [architecture] is what the
model's own configuration takes; it is no option, but `options.architecture`.
"""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import places
from sdhelpers.paths import ROOT

CONFIGS = places.RECIPES / "configs"


def names() -> list[str]:
    """Every part that a recipe trains."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def check(name: str, known: Sequence[str], kind: str) -> str:
    """The name itself; exits with one sentence when it is none of the known ones."""
    if name not in known:
        raise SystemExit(f"There is no {kind} {name!r}; known are {', '.join(known)}.")
    return name


def config(name: str) -> dict[str, Any]:
    """What configs/NAME.toml holds."""
    return tomllib.loads((CONFIGS / f"{check(name, names(), 'recipe')}.toml").read_text(encoding="utf-8"))


def named(arguments: Sequence[str], description: str, known: Sequence[str], kind: str) -> tuple[str, list[str]]:
    """The name that a command begins with, and the rest; without one, the command is described."""
    if not arguments or arguments[0].startswith("-"):
        print(f"{description}\nThe {kind}s: {', '.join(known)}.")
        raise SystemExit(0)
    return check(arguments[0], known, kind), list(arguments[1:])


def stages(name: str) -> list[dict[str, Any]]:
    """The options of each stage of a part's training, the first one first."""
    shared = config(name)
    own = shared.pop("stage", [{}])
    shared.pop("architecture", None)
    return [{key: ROOT / v if str(v).startswith("data/") else v for key, v in (shared | one).items()} for one in own]


def options(name: str, description: str | None = None, arguments: Sequence[str] = ()) -> argparse.Namespace:
    """The options of a training: of the stage that the arguments name, or of the last, as they change them."""
    every = stages(name)
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--stage", type=int, choices=range(1, len(every) + 1), default=len(every))
    defaults = every[first.parse_known_args(arguments)[0].stage - 1]
    this = ", ".join(f"{key} {value}" for key, value in defaults.items())
    parser = parser_of(f"train {name}", description, parents=[first], epilog=f"This stage: {this}.")
    parser.add_argument("--init", type=Path, help="begin with the weights of this folder")
    parser.add_argument("--run", help="name of the folder in runs/ (default: the recipe's own)")
    if "steps" in defaults:  # what is fitted in one go has no loop
        _add_the_loops(parser)
    known = vars(parser.parse_args([]))
    for key, value in defaults.items():
        if key not in known:
            kind = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
            parser.add_argument(f"--{key.replace('_', '-')}", **kind)
    parser.set_defaults(**defaults)
    chosen = parser.parse_args(arguments)
    chosen.architecture = config(name).get("architecture", {})
    if chosen.init and not Path(chosen.init).is_dir():
        raise SystemExit(f"{chosen.init} is not there: train the stage before it (--stage), or give another --init.")
    return chosen


def parser_of(command: str, description: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A command's parser; the description keeps its lines."""
    kind = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        f"python data/recipes {command}", None, description, formatter_class=kind, **settings
    )


def _add_the_loops(parser: argparse.ArgumentParser) -> None:
    """The options that loop.py reads."""
    parser.add_argument("--steps", type=int, help="steps of the whole training")
    parser.add_argument("--minutes", type=float, help="pause after so many minutes; run again to go on")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--warmup", type=int, default=200, help="steps over which the rate rises")
    parser.add_argument("--decay", type=float, default=0.3, help="last part of the steps with a falling rate")
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--ema-long", type=float, help="also keep an average of this decay (0.9999: a longer one)")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the world (a GPU wants many)")
    parser.add_argument("--compile", action="store_true", help="compile the loss (minutes once, then faster)")
    parser.add_argument("--save-every", type=float, default=5.0, help="minutes between checkpoints")
    parser.add_argument("--fresh", action="store_true", help="forget the checkpoint and begin again")
