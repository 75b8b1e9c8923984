"""The LoRA `icon`: the world's held-out style, in the attention of the UNet and of the text encoder."""

from parts.lora import ATTENTION, TEXT_ATTENTION, Adapter, config
from sdhelpers.world.drawings import HELD_OUT_STYLE

RECIPE = Adapter(
    name="icon",
    trigger=HELD_OUT_STYLE,
    does="draws everything as a bold black icon, a style that sd15 has never seen",
    unet=config(8, 4, ATTENTION),
    text_encoder=config(4, 4, TEXT_ATTENTION),
    styles=(HELD_OUT_STYLE,),
).recipe()
