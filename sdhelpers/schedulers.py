"""The samplers that chapter 3 compares, by the names that user interfaces give them."""

import diffusers
from diffusers import SchedulerMixin

SCHEDULERS: dict[str, tuple[str, dict]] = {
    "PNDM": ("PNDMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}


def build_scheduler(name: str, config) -> SchedulerMixin:
    """The named scheduler with the noise schedule of `config` (a pipeline's `scheduler.config`). Built in chapter 3.

    Raises ValueError for a name that is not in SCHEDULERS.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"There is no scheduler {name!r}; choose one of {', '.join(SCHEDULERS)}.")
    class_name, options = SCHEDULERS[name]
    own = {key for _, others in SCHEDULERS.values() for key in others}  # must not pass from one to the next
    config = {key: value for key, value in config.items() if key not in own}
    return getattr(diffusers, class_name).from_config(config, **options)
