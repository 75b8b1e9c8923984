"""Score an assembled model, and compare with its floors (tests/models/floors.toml).

    python data/recipes evaluate sd15 --images 1000 --save
    python data/recipes evaluate NAME --help      its own options

sd15, inpainting and loras have evaluations of their own (evaluations/); of any other model, its parts' recipes score
what is shipped. `--save` writes the scores to the model card and the contact sheets to sheets/.
"""

import argparse
import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import floors
import places
import recipe
import stages
from card import all_scores, read_card, write_card
from evaluations import Result
from sdhelpers import models


def own_evaluation(name: str) -> ModuleType | None:
    """The module that evaluates this model as a whole, if there is one."""
    found = importlib.util.find_spec(f"evaluations.{name}")
    return importlib.import_module(f"evaluations.{name}") if found else None


def scores_of_parts(name: str, images: int | None) -> dict[str, dict]:
    """What the recipes of a model's parts say of what is shipped, for each part that they can score.

    `images`: how many are drawn, where that is an option of the part.
    """
    folder, scores = models.locate(name), {}
    for part in models.entry(name).parts:
        module = recipe.module(part)
        if module.RECIPE.score:
            place = folder / part if (folder / part).is_dir() else folder
            options = stages.options(part, arguments=["--init", str(place)])
            options.images = images or getattr(options, "images", None)
            scores[part] = module.RECIPE.score(module.RECIPE.build(options).eval(), options)
    return scores


def evaluate(name: str, options: argparse.Namespace, own: ModuleType | None) -> list[str]:
    """Print the scores, save them where that is asked for, and return which floors are missed."""
    folder = getattr(options, "model", places.POCKET / name)
    card = read_card(folder)
    if own:
        result = own.evaluate(options)
        card |= {"scores": result.scores} | ({"notes": result.notes} if result.notes else {})
    else:
        result = Result({})
        for part, scores in scores_of_parts(name, options.images).items():
            card["parts"][part]["scores"] = scores
    print(json.dumps(all_scores(card), indent=1))
    if options.save:
        write_card(folder, card)
    sheets = options.sheet or (places.SHEETS if options.save else None)
    for file, image in result.sheets.items() if sheets else ():
        sheets.mkdir(exist_ok=True, parents=True)
        image.save(sheets / file, quality=88)
    lines = floors.missed(floors.read_floors().get(name, {}), all_scores(card))
    print("\n".join(["Floors missed:", *lines]) if lines else "No floor is missed.")
    return lines


def main(arguments: Sequence[str]) -> None:
    name, rest = stages.named(arguments, __doc__, tuple(models.REGISTRY), "model")
    own = own_evaluation(name)
    parser = stages.parser_of(f"evaluate {name}", own.__doc__ if own else __doc__)
    parser.add_argument("--save", action="store_true", help="write the scores to the card, and the contact sheets")
    parser.add_argument("--sheet", type=Path, help="folder for the contact sheets")
    parser.add_argument("--images", type=int, default=getattr(own, "IMAGES", None), help="how many to draw")
    if own:
        getattr(own, "add_options", lambda parser: None)(parser)
    evaluate(name, parser.parse_args(rest), own)
