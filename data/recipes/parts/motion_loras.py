"""Eight motion LoRAs: low-rank layers in the motion adapter's attention, each taught one movement of the camera.

As AnimateDiff's are: what the clips show is said, how the camera moves is not, so that the layers must bring it about.
All learn in one run, in turn: sample n is of movement n // batch % 8. Train again whenever the motion adapter has
changed.
"""

from pathlib import Path

from diffusers import AnimateDiffPipeline
from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from clips_data import ClipLatents
from loop import Training
from moving import pipeline, scores_of_loras
from parts import motion
from parts.lora import config
from recipe import Options, Recipe
from sdhelpers.world import clips

RANK = 4
ATTENTION = r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)"
CAMERAS = tuple(clips.CAMERAS)


def slug(camera: str) -> str:
    """The name of a movement's file and adapter."""
    return camera.replace(" ", "-")


class WithLoras(motion.Moving):
    """The moving sd15, frozen but for the LoRA layers, of which one movement's are heard at a time."""

    def listen_to(self, camera: str) -> None:
        """Hear this movement's layers alone; all go on to be trained in their turn."""
        for module in self.unet.modules():
            if isinstance(module, BaseTunerLayer):
                module._active_adapter = [slug(camera)]


def build(options: Options) -> WithLoras:
    logging.set_verbosity_error()
    trained, options.init = options.init, options.adapter
    model = motion.build(options)
    model.__class__ = WithLoras
    model.requires_grad_(False)
    for camera in CAMERAS:
        model.unet.add_adapter(config(RANK, RANK, ATTENTION), slug(camera))
        if trained:
            layers = load_file(Path(trained) / f"{slug(camera)}.safetensors")
            layers = {key.removeprefix("unet."): value for key, value in layers.items()}
            set_peft_model_state_dict(model.unet, layers, slug(camera))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def turn(number: int, batch: int) -> str:
    """Which movement of the camera sample `number` shows: one for a whole batch, then the next."""
    return CAMERAS[number // batch % len(CAMERAS)]


def data(options: Options) -> ClipLatents:
    return ClipLatents(options.clips, options.frames, lambda number: (turn(number, options.batch),), untold=1.0)


class OneMovement(motion.Clips):
    def __init__(self, training: Training):
        super().__init__(training)
        self.progress = training.progress

    def loss_of(self, model: WithLoras, *tensors):
        model.listen_to(turn(self.progress.samples, self.options.batch))
        return super().loss_of(model, *tensors)

    probe = None


def score(model: WithLoras, options: Options) -> dict[str, float]:
    if not options.images:
        return {}
    model.tell_time(motion.moments_of(options.frames))
    return scores_of_loras(pipeline(model), options.images, options.frames, model.listen_to)


def export(model: WithLoras, folder: Path, options: Options) -> None:
    """A file for each movement, as the library's `load_lora_weights` reads it."""
    for camera in CAMERAS:
        layers = get_peft_model_state_dict(model.unet, adapter_name=slug(camera))
        AnimateDiffPipeline.save_lora_weights(
            folder,
            unet_lora_layers={key: value.half().contiguous() for key, value in layers.items()},
            weight_name=f"{slug(camera)}.safetensors",
        )


RECIPE = Recipe(build, data, OneMovement, score, export)
