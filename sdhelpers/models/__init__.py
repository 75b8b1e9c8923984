"""Where the models are: one registry for the pocket tier (in this repository) and the full tier (on the hub).

    path = models.locate("sd15", tier)
    pipe = StableDiffusionPipeline.from_pretrained(path, variant=models.variant("sd15", tier), dtype=dtype)

`locate` gives a folder that is complete and unaltered, or raises ModelError with one sentence that says
what to do. Nothing is downloaded before it is known that it fits. Built in chapters 3 and 6.
"""

from sdhelpers.models.folders import BUILT, build_single_file, locate, locate_file, nouns
from sdhelpers.models.hub import sha256
from sdhelpers.models.integrity import verify
from sdhelpers.models.registry import (
    REGISTRY,
    TIERS,
    Model,
    ModelError,
    check_tier,
    default_guidance_scale,
    default_size,
    entry,
    variant,
)
from sdhelpers.paths import POCKET
