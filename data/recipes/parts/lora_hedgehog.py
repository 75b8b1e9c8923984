"""The LoRA `hedgehog`: a held-out noun in the four styles, in attention and convolutions of the UNet."""

from parts.lora import ATTENTION, Adapter, config

CONVOLUTIONS = ["proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"]
SMALLER = dict.fromkeys(["conv1", "conv2", "conv_shortcut"], 4)

RECIPE = Adapter(
    name="hedgehog",
    trigger="hedgehog",
    does="draws a hedgehog, an animal that sd15 has never seen",
    unet=config(8, 16, ATTENTION + CONVOLUTIONS, rank_pattern=SMALLER, alpha_pattern=SMALLER),
    nouns=("hedgehog",),
).recipe()
