"""The motion adapter: attention along time between the layers of the frozen sd15, trained on clips of the world.

Guo et al., AnimateDiff (2023, arXiv:2307.04725), with the library's own classes: after each block's layers a small
transformer lets every place look at the same place in the other frames. Its last layer begins at zero, so that training
begins with sd15's own pictures, one a frame. The words of motion are new to sd15's text encoder, whose rows for them
hold one vector that no training has touched: these rows are learnt beside the adapter and are shipped with it in
words.safetensors, a vector by token, as a textual inversion is kept; nothing else of sd15 changes.

Left to the loss alone the words are not heard for a long time: a module that does not listen gives no reason to speak
up, and a word that does not speak none to listen. So a line (`listener`, which is not shipped) must tell the kinds of
motion from what the modules are given, and this, too, teaches the rows: in the first stage, where nothing else learns.

Nor does attention begun by chance tell the frames apart: it takes their mean, which knows no time. So it begins with
unit matrices, which let each frame look at its neighbours and carry their places in time along (`tell_time`). A few
frames of a clip, anywhere in it, do for a step, as long as they are told when they are. And opposite motions cancel as
long as the words are not heard: that things go to the right is learnt first, then when they do (`LESSONS`).

The loss hardly tells when things begin to move, so the clips of some prompts are drawn while it learns (`probe_every`),
and an optical flow says how far they are from what their words promise.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from clips_data import ClipLatents
from conditioning import Conditioning, even_part
from export import save
from loop import Training
from moving import BASE, MOVEMENTS, draw, pipeline, probed, scores_of, way_off
from probes import film, keep_strip
from recipe import Options, Recipe
from sdhelpers.world import clips

WORDS = "words.safetensors"
KINDS = tuple(camera or motion for motion, camera in MOVEMENTS)
LISTENED, WORDS_LISTENED = 0.05, 0.2  # what it counts that the words are told apart, later and where they alone learn
MODULES = "motion_modules."
STRONG_WEIGHT = 0.3  # what an error of the clean latents counts where the noise is strong
BLIND = 0.12  # last part of the time steps, for what is given as noise alone
MOVING, COARSE = 4.0, 8.0  # what an error counts in which the frames differ, and besides where it is as coarse as that
LESSONS = (  # from which sample on which kinds of motion are shown
    (0, ("right",)),
    (1_200, ("right", "left")),
    (3_200, ("right", "left", "rise", "fall", "jump", "still")),
    (6_400, KINDS),
)


class Moving(torch.nn.Module):
    """sd15's UNet with motion modules, and the rows of the words of motion, [words, width]; only these learn."""

    def __init__(self, unet: UNetMotionModel, tokens: list[str], ids: list[int], rows: torch.Tensor, size: int):
        super().__init__()
        self.unet, self.tokens, self.words = unet, tokens, torch.nn.Parameter(rows)
        places_of_rows = torch.full((size,), -1)
        places_of_rows[ids] = torch.arange(len(ids))
        self.register_buffer("row", places_of_rows)
        self.modules_of_motion = [m for n, m in unet.named_modules() if n.rpartition(".")[0].endswith("motion_modules")]
        self.listener = torch.nn.Linear(sum(m.norm.num_channels for m in self.modules_of_motion), len(KINDS))
        self.moments = None
        for clock in unet.modules():
            if isinstance(clock, SinusoidalPositionalEmbedding):
                clock.register_forward_hook(self.with_moments)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(f".{MODULES}" in name)

    def tell_time(self, moments: torch.Tensor | None) -> None:
        """From now on the frames are at these moments, [frames], counted in frames of a whole clip."""
        self.moments = moments

    def with_moments(self, clock, arguments, usual: torch.Tensor) -> torch.Tensor:
        """What a positional embedding gives if its frames were told when they are, the library's formula."""
        if self.moments is None:
            return usual
        (hidden,) = arguments
        turns = torch.exp(torch.arange(0, hidden.shape[2], 2) * (-np.log(10_000.0) / hidden.shape[2]))
        angles = self.moments.float().cpu()[:, None] * turns
        return hidden + torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(hidden.device)

    def read(self, text_encoder: CLIPTextModel, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings [batch, 77, width] with this model's own rows for the words of motion."""

        def replaced(module, arguments, vectors):
            row = self.row[ids][..., None]
            return torch.where(row >= 0, self.words[row[..., 0].clamp(min=0)].to(vectors.dtype), vectors)

        hook = text_encoder.get_input_embeddings().register_forward_hook(replaced)
        try:
            return text_encoder(ids).last_hidden_state
        finally:
            hook.remove()

    def told_apart(self, kinds: torch.Tensor, forward: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and how badly a line tells the kinds of motion from what the modules are given.

        Of `kinds`, [batch], those below 0 do not count: their captions say nothing of the motion.
        """
        heard = []
        hooks = [
            m.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0].float().mean((2, 3))))
            for m in self.modules_of_motion
        ]
        try:
            output = forward()
        finally:
            for hook in hooks:
                hook.remove()
        heard = torch.cat(heard, 1).view(len(kinds), -1, self.listener.in_features).mean(1)
        told = kinds >= 0
        if not told.any():
            return output, heard.sum() * 0
        return output, F.cross_entropy(self.listener(heard[told]), kinds[told])


def moments_of(frames: int) -> torch.Tensor:
    """When the frames of a clip are that shows a whole motion, [frames]: the last is the last of `clips.FRAMES`."""
    return torch.linspace(0, clips.FRAMES - 1, frames)


def begin(adapter: MotionAdapter) -> None:
    """Attention begins as unit matrices, which look at frames nearby and hand on when they are; what is added as 0."""
    for name, module in adapter.named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
            torch.nn.init.eye_(module.weight)
        elif name.endswith(".proj_out"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)


def unread(tokenizer: CLIPTokenizer, rows: torch.Tensor) -> tuple[list[str], list[int]]:
    """Tokens and ids of the words of motion whose rows no training has touched: they all hold the same vector."""
    phrases = [p for kinds in (clips.MOTIONS, clips.CAMERAS) for said in kinds.values() for p in said]
    ids = sorted({i for text in (*phrases, *clips.FLYING_WORDS.values()) for i in tokenizer(text).input_ids[1:-1]})
    (untouched, _), *_ = Counter(tuple(row[:8].tolist()) for row in rows).most_common(1)
    ids = [i for i in ids if tuple(rows[i, :8].tolist()) == untouched]
    return tokenizer.convert_ids_to_tokens(ids), ids


def build(options: Options) -> Moving:
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    rows = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32).get_input_embeddings().weight.data
    tokens, ids = unread(tokenizer, rows)
    if options.init:
        adapter = MotionAdapter.from_pretrained(options.init, dtype=torch.float32)
        kept = load_file(Path(options.init) / WORDS)
        begun = torch.stack([kept[token].float() for token in tokens])
    else:
        channels = tuple(unet.config.block_out_channels)
        adapter = MotionAdapter(channels, 1, motion_num_attention_heads=options.heads, use_motion_mid_block=False)
        begin(adapter)
        begun = rows[(rows - rows[ids[0]]).abs().amax(1) > 0].std() * torch.randn(len(ids), rows.shape[1])
    moving = UNetMotionModel.from_unet2d(unet, adapter)
    moving.set_attn_processor(AttnProcessor())  # two products: for few frames faster than the fused kernel on a CPU
    model = Moving(moving, tokens, ids, begun.clone(), len(rows))
    if options.words_only:
        moving.requires_grad_(False)
    return model


def data(options: Options) -> ClipLatents:
    """Clips of the kinds of motion that are due, or with `all_kinds` of all from the first."""
    return ClipLatents(options.clips, options.frames, lambda number: KINDS if options.all_kinds else due(number))


def due(number: int) -> tuple[str, ...]:
    """The kinds of motion that the lesson of sample `number` shows."""
    return [kinds for first, kinds in LESSONS if first <= number][-1]


class Clips(Conditioning):
    """As for sd15, of whole clips: each has one time step and each of its frames a noise of its own.

    What moves where is settled where the noise is strongest, and the words alone can tell it there: a little less
    noise, and the frames themselves show it. So only `even` of the time steps are spread evenly. Of the others a part
    (`blind`) lies in the last `BLIND` part of them, which is enough for things; the rest in the last `strongest` part:
    how a camera moves shows in the place, which appears later on the way. They are weighted as a loss on the clean
    latents is.
    """

    def __init__(self, training: Training):
        super().__init__(BASE / "tokenizer", BASE / "text_encoder", training.device)
        self.text_encoder.requires_grad_(False)
        self.run, self.options, self.even = training.folder, training.options, training.options.even

    def prepare(self, batch):
        latents, captions, kinds = batch
        chosen = torch.randperm(self.options.frames)[: self.options.at_once].sort().values
        latents = latents[:, chosen].to(self.device)  # [batch, frames at once, 4, 16, 16]
        noise = torch.randn_like(latents)
        timesteps, weights = self.time_steps(len(latents))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        noisy, noise = self.blinded(latents, noisy, noise, timesteps)
        told = torch.tensor([KINDS.index(kind) if kind else -1 for kind in kinds], device=self.device)
        moments = moments_of(self.options.frames)[chosen]
        return noisy.transpose(1, 2), noise.transpose(1, 2), timesteps, self.tokens(captions), weights, told, moments

    def time_steps(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As for sd15 for the evenly spread ones; the others drawn from the strongest noise."""
        even = even_part(count, self.even)
        timesteps, weights = super().time_steps(count)
        steps = len(self.snr)
        reach = torch.where(self.blind(count)[even:], BLIND, self.options.strongest)
        back = reach * torch.rand(count - even, device=self.device)
        strong = (steps * (1 - back)).long().clamp(max=steps - 1)
        strong_weights = STRONG_WEIGHT / self.snr[strong]
        return torch.cat([timesteps[:even], strong]), torch.cat([weights[:even], strong_weights])

    def blinded(self, latents, noisy, noise, timesteps) -> tuple[torch.Tensor, torch.Tensor]:
        """A part (`blind`) of the strongly noised clips is given as noise alone, with what then is to be predicted.

        Even at the last time step a trace of the clip is left, and in many frames together it shows what goes where, so
        that training never needs the words. Drawing begins with noise alone.
        """
        kept = self.kept(timesteps)
        alone = torch.randn_like(noise)
        implied = (alone - kept.sqrt() * latents) / (1 - kept).sqrt()
        blind = self.blind(len(latents)).view(-1, 1, 1, 1, 1)
        return torch.where(blind, alone, noisy), torch.where(blind, implied, noise)

    def blind(self, count: int) -> torch.Tensor:
        """Which of a batch are given as noise alone, bool [count]."""
        strong = count - even_part(count, self.even)
        return torch.arange(count, device=self.device) >= count - round(self.options.blind * strong)

    def kept(self, timesteps: torch.Tensor) -> torch.Tensor:
        """How much of the clips' power is left at their time steps, [batch, 1, 1, 1, 1]."""
        return self.scheduler.alphas_cumprod.to(self.device)[timesteps].view(-1, 1, 1, 1, 1)

    def loss_of(self, model: Moving, noisy, noise, timesteps, ids, weights, kinds, moments):
        """The weighted error; what differs from frame to frame counts more, most of all how the picture does at large.

        No such weight alters the best guess, but the rest of a place, which nobody can foretell, drowns it less.
        """
        model.tell_time(moments)
        text_embeddings = model.read(self.text_encoder, ids).repeat_interleave(noisy.shape[2], 0)
        predicted, confused = model.told_apart(kinds, lambda: model.unet(noisy, timesteps, text_embeddings).sample)
        error = predicted.float() - noise
        alike = error.mean(2, keepdim=True)
        moving = error - alike
        coarse = F.avg_pool3d(moving, (1, 4, 4))
        means = [part.square().mean((1, 2, 3, 4)) for part in (alike, moving, coarse)]
        each = means[0] + MOVING * (means[1] + COARSE * means[2])
        plain = error.square().mean((1, 2, 3, 4))[: even_part(len(each), self.even)].mean()
        loss, found = (weights * each).mean(), {"words_confused": confused, "plain_mse": plain}
        if self.options.words_only:
            return loss + WORDS_LISTENED * confused, found
        if self.blind(len(noise)).any():
            found["motion_missed"] = self.motion_missed(moving, noisy, noise, timesteps)
        return loss + LISTENED * confused, found

    @torch.no_grad()
    def motion_missed(self, error, noisy, noise, timesteps) -> torch.Tensor:
        """Of what differs from frame to frame in the clean latents, the part that is not guessed from the words alone.

        1: all frames are guessed alike, or nothing moves. It cannot fall to 0, as a caption leaves open how the place
        looks.
        """
        blind, kept = self.blind(len(noise)), self.kept(timesteps)
        latents = (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()
        moving = latents - latents.mean(2, keepdim=True)
        missed, whole = ((1 - kept) / kept * error.square())[blind].sum(), moving[blind].square().sum()
        return torch.where(whole > 1, missed / whole, 1.0)

    def probe(self, model: Moving, step: int) -> dict[str, float]:
        """Draw clips of some kinds of motion, keep the first frames and the last, and measure how things move."""
        if self.options.words_only:
            return {}
        tasks = probed()
        model.tell_time(moments_of(self.options.frames))
        drawn = draw(pipeline(model), tasks, self.options.frames, steps=8)
        keep_strip(self.run, step, [frame for clip in drawn[:3] for frame in (clip[0], clip[-1])])
        return {"flow_error": float(np.mean([way_off(clip, task) for clip, task in zip(drawn, tasks)]))}


def score(model: Moving, options: Options) -> dict[str, float]:
    if not options.images:
        return {}
    model.tell_time(moments_of(options.frames))
    return scores_of(pipeline(model), options.images, options.frames)


def export(model: Moving, folder: Path, options: Options) -> dict:
    """The adapter as the library's `MotionAdapter` loads it, and the rows of the words of motion."""
    film(folder.parent)
    rows = {token: row.detach().half().contiguous() for token, row in zip(model.tokens, model.words)}
    with TemporaryDirectory() as whole:
        model.unet.save_motion_modules(whole)
        save(MotionAdapter.from_pretrained(whole, dtype=torch.float16), folder)
    save_file(rows, folder / WORDS, metadata={"format": "pt"})
    return {"frames": options.frames}


RECIPE = Recipe(build, data, Clips, score, export)
