"""Wan text-to-video and Wan 2.2 TI2V (`expand_timesteps`), as stock diffusers folders.

Everything family-specific that the rest of flc needs: loading, text and video encoding, calling the
transformer for a velocity, few-step schedulers, sizes. The transformer stays a stock
`WanTransformer3DModel`; only its cross-attention processors are exchanged (see `text_padding`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from flc.errors import UserError
from flc.family import ModelAdapter
from flc.models.attention import recording
from flc.models.condition import Condition
from flc.models.folder import WEIGHTED, read_json
from flc.models.loaded import check_loaded
from flc.models.notes import read_notes
from flc.models.text_padding import BiasedCrossAttention, collapse, text_lengths
from flc.models.view import blocks_of
from flc.schedule import FewStepSchedule, Sampler

#: Pixels of clips that the autoencoder is given at once, at the most, but one clip: it works in float32, and one of
#: full size takes gigabytes.
PIXELS = 2**22
TEXT_ROWS = 512  # stock pipelines pad every prompt to this many rows (max_sequence_length)
TIME_SCALE = 1000.0  # the transformer counts time in [0, 1000]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def running_dtype(transformer: Any) -> torch.dtype:
    """The precision a Wan transformer runs in. Its first parameter would mislead: diffusers keeps the scale-shift
    tables and some norms in float32 whatever is asked for."""
    return transformer.patch_embedding.weight.dtype


def unreadable(folder: Path, error: Exception) -> str:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return f"{folder} does not load as a Wan pipeline: {said}"


def read_pipeline(cls: Any, folder: Path, **options: Any) -> Any:
    """A stock pipeline of a folder, whole and finite."""
    try:
        pipe = cls.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # a stranger's configs and headers may be wrong in any way
        raise UserError(unreadable(folder, error)) from error
    for name in WEIGHTED:
        if getattr(pipe, name) is None:
            raise UserError(f"{folder / 'model_index.json'} names no {name}: download it again")
        check_loaded(getattr(pipe, name), folder / name)
    check_numbers(pipe, folder)
    return pipe


def check_numbers(pipe: Any, folder: Path) -> None:
    """What stock loaders take from configs as it comes, and only a later call would trip over."""
    vae, scheduler = pipe.vae.config, pipe.scheduler.config
    for name in ("latents_mean", "latents_std"):
        if not are_numbers(vae[name]) or len(vae[name]) != vae.z_dim:
            raise UserError(f"{folder / 'vae' / 'config.json'}: {name} must be {vae.z_dim} numbers: download it again")
    for name in ("flow_shift", "shift"):
        if scheduler.get(name) is not None and not are_numbers([scheduler[name]]):
            raise UserError(f"{folder / 'scheduler' / 'scheduler_config.json'}: {name} must be a number")


def are_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def at_once(frames: int, height: int, width: int) -> int:
    """How many clips of this size the autoencoder is given at once."""
    return max(1, PIXELS // (frames * height * width))


class WanAdapter(ModelAdapter):
    """One loaded Wan pipeline."""

    stacks: ClassVar[dict[str, str]] = {"blocks": "num_layers"}
    ffn: ClassVar[dict[str, str]] = {"blocks": "ffn_dim"}

    pipe: Any
    notes: dict[str, Any]
    device: torch.device
    processor: BiasedCrossAttention
    _texts: dict[str, Tensor]

    @classmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        return transformer.get("_class_name") == "WanTransformer3DModel"

    # -- loading ------------------------------------------------------------------------------------------

    def load(self, folder: Path, device: str = "cpu", dtype: str = "float32") -> WanAdapter:
        """Read a folder that `flc.models.folder.check` has passed."""
        self.device, self._texts = torch.device(device), {}
        self.notes = read_notes(folder)
        self.pipe = read_pipeline(WanPipeline, folder, torch_dtype=DTYPES[dtype])
        self._refuse_unsupported(folder)
        self.pipe.set_progress_bar_config(disable=True)
        # One precision per component, decided here: the autoencoder stays in float32 as Wan's own examples have it.
        self.pipe.vae.to(torch.float32)
        for component in (self.pipe.transformer, self.pipe.vae):
            component.to(self.device)
        for component in (self.pipe.transformer, self.pipe.vae, self.pipe.text_encoder):
            component.requires_grad_(False).eval()
        self.processor = BiasedCrossAttention()
        self.prepare(self.pipe.transformer)
        return self

    def outline(self, folder: Path, dtype: str = "float32") -> WanAdapter:
        self.device, self._texts, self.notes = torch.device("meta"), {}, read_notes(folder)
        classes: dict[str, Any] = {"transformer": WanTransformer3DModel, "vae": AutoencoderKLWan}
        configs = {name: read_json(folder / name / "config.json") for name in classes}
        try:
            with self.device:
                parts: dict[str, Any] = {name: cls.from_config(configs[name]) for name, cls in classes.items()}
            parts |= {"text_encoder": None, "tokenizer": None}
            self.pipe = WanPipeline.from_pretrained(folder, local_files_only=True, **parts)
        except Exception as error:  # a stranger's configs may be wrong in any way
            raise UserError(unreadable(folder, error)) from error
        self.pipe.transformer.to(DTYPES[dtype]).requires_grad_(False)
        self._refuse_unsupported(folder)
        return self

    def _refuse_unsupported(self, folder: Path) -> None:
        config = self.pipe.transformer.config
        if self.pipe.transformer_2 is not None or self.pipe.config.boundary_ratio is not None:
            raise UserError(f"{folder} has two experts (transformer_2), which flc does not compress yet")
        if config.image_dim is not None or config.in_channels != config.out_channels:
            raise UserError(f"{folder} is a Wan 2.1 image-to-video model, which flc does not compress yet")

    def prepare(self, transformer: nn.Module) -> nn.Module:
        """Exchange the cross-attention processors of a stock Wan transformer. Returns it."""
        for block in transformer.blocks:  # type: ignore[union-attr]
            block.attn2.set_processor(self.processor)
        return transformer

    @property
    def transformer(self) -> nn.Module:
        return self.pipe.transformer

    def width(self, transformer: nn.Module) -> int:
        """Size D of a token's hidden state."""
        config: Any = transformer.config
        return config.num_attention_heads * config.attention_head_dim

    def feed_forward(self, block: Any) -> nn.Module:
        return block.ffn

    def by_frame(self, hidden: Tensor, frames: int) -> Tensor:
        """(B, F, N, D) of a block's hidden states (B, F N, D): Wan's tokens run over a frame's rows, then frames."""
        return hidden.unflatten(1, (frames, -1))

    @property
    def dtype(self) -> torch.dtype:
        return running_dtype(self.pipe.transformer)

    @property
    def image_to_video(self) -> bool:
        """Whether a first frame may be given."""
        return bool(self.pipe.config.expand_timesteps)

    @property
    def shift(self) -> float:
        """The timestep shift that the folder's scheduler was configured with."""
        config = self.pipe.scheduler.config
        if "shift" in self.notes:  # a student's scheduler holds another number for the same schedule
            return float(self.notes["shift"])
        return float(config.get("flow_shift") or config.get("shift") or 1.0)

    # -- sizes --------------------------------------------------------------------------------------------

    @property
    def default_size(self) -> tuple[int, int, int]:
        """(frames, height, width): what the folder's flc.json says, or Wan's own."""
        said = self.notes.get("size")
        return tuple(said) if said else (81, 480, 832)

    def fps_of(self, folder: Path) -> int:
        """What the folder's flc.json says, or Wan's own `sample_fps`: 24 for TI2V and 16 for the others."""
        return int(read_notes(folder).get("fps") or (24 if self.takes_first_frame(folder) else 16))

    def takes_first_frame(self, folder: Path) -> bool:
        return bool(read_json(folder / "model_index.json").get("expand_timesteps"))

    @property
    def default_guidance(self) -> float:
        """Standard-form guidance scale of the teacher: what the folder's flc.json says, or Wan's own 5."""
        return float(self.notes.get("guidance", 5.0))

    def latent_shape(self, frames: int, height: int, width: int, pipe: Any = None) -> tuple[int, int, int, int]:
        pipe = pipe or self.pipe
        patch = pipe.transformer.config.patch_size
        temporal, spatial = pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial
        for name, value, step in (("height", height, spatial * patch[1]), ("width", width, spatial * patch[2])):
            step = max(step, 16)  # stock pipelines refuse anything else
            if value < step or value % step:
                raise UserError(f"--{name} {value} must be a positive multiple of {step} for this model")
        if frames < 1 or frames % temporal != 1:
            raise UserError(f"--frames {frames} must be one more than a multiple of {temporal} for this model")
        shape = (pipe.vae.config.z_dim, (frames - 1) // temporal + 1, height // spatial, width // spatial)
        most = pipe.transformer.config.rope_max_seq_len
        pixels = (frames, height, width)
        for name, value, size, step in zip(("frames", "height", "width"), pixels, shape[1:], patch, strict=True):
            if size // step > most:
                raise UserError(f"--{name} {value} is beyond this model's {most} positions: give a smaller size")
        return shape

    # -- encoding -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """(B, L, D) as the stock pipeline encodes them, without the rows that are padding in all. What was encoded once
        is kept, off the device: a large encoder is there only while it encodes, and so are the texts of all clips."""
        missing = sorted({p for p in prompts if p not in self._texts})
        if missing:
            self.pipe.text_encoder.to(self.device)
        for begin in range(0, len(missing), 32):
            part = missing[begin : begin + 32]
            embeds, _ = self.pipe.encode_prompt(
                part, do_classifier_free_guidance=False, max_sequence_length=TEXT_ROWS, device=self.device
            )
            for prompt, row, length in zip(part, embeds, text_lengths(embeds).tolist(), strict=True):
                self._texts[prompt] = row[: max(1, length)].cpu().clone()
        if missing:
            self.pipe.text_encoder.to("cpu")
        texts = nn.utils.rnn.pad_sequence([self._texts[p] for p in prompts], batch_first=True)
        return texts.to(self.device)

    def condition(
        self, prompts: Sequence[str], negative: str = "", first: Tensor | None = None, given: Tensor | None = None
    ) -> Condition:
        """first: clean first latent frames (B, C, 1, H, W), used where given (B,)."""
        return Condition(self.text(prompts), self.text([negative]), first, given)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self.pipe.vae.config
        shape = (1, config.z_dim, 1, 1, 1)
        mean, std = (torch.tensor(v, device=self.device).view(shape) for v in (config.latents_mean, config.latents_std))
        return mean, std

    @torch.no_grad()
    def encode(self, video: np.ndarray) -> Tensor:
        """Normalised latents (B, C, F', H', W') of clips (B, F, H, W, 3) in [0, 1]."""
        mean, std = self._statistics()
        latents = []
        for few in torch.from_numpy(video).split(at_once(*video.shape[1:4])):
            x = few.to(self.device).permute(0, 4, 1, 2, 3).float() * 2 - 1
            latents.append((self.pipe.vae.encode(x).latent_dist.mode() - mean) / std)
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Clips (B, F, H, W, 3) float32 in [0, 1] of normalised latents."""
        mean, std = self._statistics()
        temporal, spatial = self.pipe.vae_scale_factor_temporal, self.pipe.vae_scale_factor_spatial
        frames, height, width = latents.shape[2:]
        videos = []
        for few in latents.split(at_once(frames * temporal, height * spatial, width * spatial)):
            video = self.pipe.vae.decode(few.float() * std + mean, return_dict=False)[0]
            videos.append(((video + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1).cpu().numpy())
        return np.concatenate(videos)

    # -- velocity -----------------------------------------------------------------------------------------

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """v (B, C, F, H, W) in float32; given frames enter clean at t = 0 and leave as 0.

        `call` is what is called (an engine's wrapper, or `module` itself); `module` tells dtype and config.
        """
        config: Any = module.config
        dtype = running_dtype(module)
        if self.image_to_video:
            _, ph, pw = config.patch_size
            tokens = t.view(-1, 1, 1).expand(-1, x.shape[2], (x.shape[3] // ph) * (x.shape[4] // pw)).clone()
            if cond.given is not None:
                tokens[cond.given, 0] = 0
            t = tokens.flatten(1)
        text = cond.text.to(dtype)
        if getattr(module, "gradient_checkpointing", False):
            # The bias lives on the processor, and a block recomputed in backward would meet a later call's.
            text, self.processor.bias = nn.functional.pad(text, (0, 0, 0, TEXT_ROWS - text.shape[1])), None
        else:
            text, self.processor.bias = collapse(text, TEXT_ROWS)
        v = call(cond.clamp(x).to(dtype), t.float() * TIME_SCALE, text, return_dict=False)[0]
        return v.float() * cond.free(x)

    def recording_attention(self, frames: int, queries: int) -> Any:
        """A context in which one forward pass records each block's cross-frame share of attention."""
        if frames < 2:
            raise UserError("clips of one latent frame have no attention across frames: give more --frames")
        return recording({s: blocks_of(self.transformer, s) for s in self.stacks}, frames, queries)

    # -- deployment ---------------------------------------------------------------------------------------

    def schedule(self, steps: int, shift: float, sampler: Sampler) -> FewStepSchedule:
        """The n-step, shift-k schedule from a plain `set_timesteps(n)`, as `WanPipeline` calls it.

        The scheduler shifts its table and then the grid drawn from it, and the grid ends at the table's
        smallest sigma; shift kn/(n+k-1) with terminal k/(n+k-1) undoes both.
        """
        n, k = steps, float(shift)
        if n == 1:
            settings: dict[str, Any] = {"shift": k}
        else:
            settings = {"shift": k * n / (n + k - 1), "shift_terminal": k / (n + k - 1)}
        scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=sampler == "sde", **settings)
        return FewStepSchedule(scheduler, n, k, sampler)

    def teacher_scheduler(self) -> Any:
        """A fresh scheduler as the folder configures it."""
        return type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)

    def save_pipeline(self, folder: Path, transformer: nn.Module, scheduler: Any) -> None:
        """A stock pipeline folder with another transformer and scheduler."""
        components = dict(self.pipe.components, transformer=transformer, scheduler=scheduler)
        extra = {"expand_timesteps": self.pipe.config.expand_timesteps}
        pipe: Any = WanPipeline(**components, **extra)
        pipe.save_pretrained(folder, safe_serialization=True)

    def stock_pipeline(self, folder: Path, with_image: bool, dtype: str | None = None) -> Any:
        each = {"vae": torch.float32, "default": DTYPES[dtype or "float32"]}
        return read_pipeline(self.stock_class(with_image), folder, **({"torch_dtype": each} if dtype else {}))

    def stock_class(self, with_image: bool) -> type:
        return WanImageToVideoPipeline if with_image else WanPipeline
