"""The pocket Stable Diffusion as three ONNX files, for the live page: text encoder, UNet with its attention, decoder.

Weights are stored in 16 bits, as the pocket models ship them, and become single-precision numbers when a file is
loaded: pictures then differ from the notebooks' by one grey level at most. In 8 bits with a scale for each row the
files were half as large, and six pictures differed by 0.5 to 2.6 grey levels on average and by 118 at most.
"""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention

OPSET = 18
SMALLEST = 2048  # tensors with fewer numbers (norms, biases) stay as they are
LARGEST = 1e4  # larger numbers are a mask's, which stay as they are too
SIDE = 16  # latents of a picture of 128 x 128 pixels, and the finest maps of attention


class TextEncoder(torch.nn.Module):
    """Token ids [1, 77] to text vectors [1, 77, 128]; rows of the vocabulary's table that are equal are kept once."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        table = encoder.get_input_embeddings()
        rows, place = torch.unique(table.weight.detach(), dim=0, return_inverse=True)
        self.register_buffer("place", place.int())
        encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.place[ids.long()].long(), return_dict=True).last_hidden_state


class KeepingProcessor:
    """Attention written out, as in chapter 5, that keeps its probabilities: [batch * heads, places, tokens]."""

    def __init__(self, kept: list[torch.Tensor]):
        self.kept = kept

    def __call__(self, attn: Attention, hidden_states, encoder_hidden_states, attention_mask=None, **_):
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)
        self.kept.append(probabilities)
        answer = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](answer))


class UNet(torch.nn.Module):
    """Noisy latents twice, a time step and the text vectors of both prompts to two guesses of the noise [2, 4, 16, 16],
    and where the picture attends to each token of the second prompt [77, 16, 16]: heads and layers averaged.
    """

    def __init__(self, unet):
        super().__init__()
        self.unet, self.kept = unet, []
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.set_processor(KeepingProcessor(self.kept))

    def forward(self, latents: torch.Tensor, step: torch.Tensor, text: torch.Tensor):
        self.kept.clear()
        noise = self.unet(latents.expand(2, -1, -1, -1), step, text, return_dict=False)[0]
        return noise, attention_map(self.kept)


def attention_map(kept: list[torch.Tensor]) -> torch.Tensor:
    """The mean of the second prompt's maps at 8 x 8 and 16 x 16 places, over heads and layers: [77, 16, 16]."""
    maps = []
    for probabilities in kept:
        second = probabilities.chunk(2)[1].mean(0)  # [places, 77]
        side = round(second.shape[0] ** 0.5)
        if side >= SIDE // 2:
            grid = second.T.reshape(1, -1, side, side)
            maps.append(torch.nn.functional.interpolate(grid, (SIDE, SIDE), mode="nearest")[0])
    return torch.stack(maps).mean(0)


class Decoder(torch.nn.Module):
    """Latents [1, 4, 16, 16] to a picture [1, 3, 128, 128] from 0 to 1."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        picture = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return (picture / 2 + 0.5).clamp(0, 1)


def parts(pipe: StableDiffusionPipeline) -> dict[str, tuple[torch.nn.Module, dict[str, torch.Tensor], list[str]]]:
    """Each file's module, its inputs by name, and the names of what it answers."""
    width = pipe.text_encoder.config.hidden_size
    latents = torch.zeros(1, 4, SIDE, SIDE)
    unet_inputs = {"latents": latents, "step": torch.tensor([1.0]), "text": torch.zeros(2, 77, width)}
    return {
        "text_encoder": (TextEncoder(pipe.text_encoder), {"ids": torch.zeros(1, 77, dtype=torch.int32)}, ["vectors"]),
        "unet": (UNet(pipe.unet), unet_inputs, ["noise", "attention"]),
        "vae_decoder": (Decoder(pipe.vae), {"latents": latents}, ["picture"]),
    }


@torch.no_grad()
def write(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write text_encoder.onnx, unet.onnx and vae_decoder.onnx into `folder`. The pipeline's modules are changed."""
    for name, (module, inputs, answers) in parts(pipe).items():
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=answers,
                opset_version=OPSET, dynamo=True, verbose=False,
            )  # fmt: skip
        model = program.model_proto
        shrink(model)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def shrink(model) -> None:
    """Keep a model's large weights in 16 bits; nodes before all others make them single-precision again."""
    graph, nodes, kept = model.graph, [], []
    for tensor in graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or weights.size < SMALLEST or np.abs(weights).max() > LARGEST:
            kept.append(tensor)
            continue
        name = tensor.name
        kept.append(onnx.numpy_helper.from_array(weights.astype(np.float16), f"{name}.half"))
        nodes.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    del graph.value_info[:]
