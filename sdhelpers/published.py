"""The published models of the full tier: where on the hub, at which revision, how large, under which licence.

Sizes are what the hub lists; parameters follow from the published configurations (a test counts them).
"""

from sdhelpers.hub import HubModel

SD15_PARAMETERS = 859_520_964 + 83_653_863 + 123_060_480  # UNet, VAE, text encoder

SD15 = HubModel(
    repository="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=(
        "model_index.json",
        "*/*.json",
        "*/merges.txt",
        "text_encoder/*.fp16.safetensors",
        "unet/*.fp16.safetensors",
        "vae/*.fp16.safetensors",
    ),
    variant="fp16",
    download=246_144_864 + 1_719_125_304 + 167_335_342 + 2_000_000,
    parameters=SD15_PARAMETERS,
    licence="CreativeML OpenRAIL-M",
)

DREAMSHAPER = HubModel(
    repository="Lykon/DreamShaper",
    revision="main",
    files=("DreamShaper_8_pruned.safetensors",),
    sha256="879db523c30d3b9017143d56705015e15a2cb5628762c11d086fed9538abd7fd",
    download=2 * SD15_PARAMETERS,
    parameters=SD15_PARAMETERS,
    licence="CreativeML OpenRAIL-M",
)

INPAINTING_PARAMETERS = SD15_PARAMETERS + 5 * 320 * 9  # five more input channels

INPAINTING = HubModel(
    repository="stable-diffusion-v1-5/stable-diffusion-inpainting",
    revision="8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
    files=(
        "model_index.json",
        "*/*.json",
        "*/merges.txt",
        "text_encoder/*.fp16.*",
        "unet/*.fp16.*",
        "vae/*.fp16.*",
    ),
    variant="fp16",
    download=4 * INPAINTING_PARAMETERS,  # at most: the parts may be there in two file formats
    parameters=INPAINTING_PARAMETERS,
    licence="CreativeML OpenRAIL-M",
)

SAFETY_CHECKER = HubModel(
    repository=SD15.repository,
    revision=SD15.revision,
    files=("safety_checker/config.json", "safety_checker/model.fp16.safetensors"),
    subfolder="safety_checker",
    variant="fp16",
    download=608_018_440,
    parameters=303_981_588,
    working=300_000_000,
    licence="CreativeML OpenRAIL-M",
)

CLIPSEG_PARAMETERS = 150_747_746

CLIPSEG = HubModel(
    repository="CIDAS/clipseg-rd64-refined",
    revision="999e0328d9e10b484360c477313983f9afdd7050",
    files=("*.json", "merges.txt", "model.safetensors", "pytorch_model.bin"),
    download=8 * CLIPSEG_PARAMETERS,  # at most: the weights may be there in two file formats
    parameters=CLIPSEG_PARAMETERS,
    working=500_000_000,
    licence="Apache-2.0",
)

CLIP = HubModel(
    repository="openai/clip-vit-base-patch32",
    revision="b33cedfd0df4e43b8238760678fcc89e1a0d38b3",
    files=("*.json", "merges.txt", "model.safetensors"),
    download=605_157_884 + 4_000_000,
    parameters=151_277_313,
    working=300_000_000,
    licence="MIT",
)

PROMPTER = HubModel(
    repository="Qwen/Qwen2.5-0.5B-Instruct",
    revision="7ae557604adf67be50417f59c2c2f167def9a775",
    files=("*.json", "merges.txt", "model.safetensors"),
    download=988_097_824 + 7_031_645 + 2_776_833 + 1_671_839 + 10_000,
    parameters=494_032_768,
    working=500_000_000,
    licence="Apache-2.0",
)
