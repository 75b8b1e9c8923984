"""How the pocket models are made: `python data/recipes COMMAND`.

    train NAME        train one part of a model
    assemble NAME     put trained parts together into the folder that the repository ships
    evaluate NAME     score an assembled model, against its floors
    encode            draw scenes and keep their latents, for the UNet's training
    sweep             compare settings or checkpoints on the same captions and seeds
    keep PLACE        a training on its way, small enough for the repository, and back
    gallery WHAT      draw the pictures that the README and GALLERY.md show

Each says more with --help.
"""

import argparse
import importlib

COMMANDS = ("train", "assemble", "evaluate", "encode", "sweep", "keep", "gallery")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python data/recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    import torch

    torch.set_flush_denormal(True)
    importlib.import_module(chosen.command).main(chosen.rest)


if __name__ == "__main__":
    main()
