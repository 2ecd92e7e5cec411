"""Wan text-to-video and Wan 2.2 TI2V (`expand_timesteps`), as stock diffusers folders.

The transformer stays a stock `WanTransformer3DModel`; only its cross-attention processors are exchanged (see
`text_padding`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

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
from flc.models.attention import WanRecorder, recording
from flc.models.condition import Condition
from flc.models.folder import read_json
from flc.models.notes import read_notes
from flc.models.stock import TIME_SCALE, StockAdapter, are_numbers
from flc.models.text_padding import BiasedCrossAttention, collapse, text_lengths
from flc.models.view import blocks_of
from flc.schedule import FewStepSchedule, Sampler

TEXT_ROWS = 512  # stock pipelines pad every prompt to this many rows (max_sequence_length)


def latents_alone(config: Mapping[str, Any]) -> bool:
    """Whether a transformer takes nothing beside the noisy latents, by its config."""
    channels = config.get("in_channels", 16)
    return channels == (config.get("out_channels", 16) or channels)


class WanAdapter(StockAdapter):
    """One loaded Wan pipeline."""

    family: ClassVar[str] = "Wan"
    classes: ClassVar[dict[str, Any]] = {
        "pipeline": WanPipeline, "transformer": WanTransformer3DModel, "vae": AutoencoderKLWan,
    }  # fmt: skip
    stacks: ClassVar[dict[str, str]] = {"blocks": "num_layers"}
    ffn: ClassVar[dict[str, str]] = {"blocks": "ffn_dim"}
    lora: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    usual_size: ClassVar[tuple[int, int, int]] = (81, 480, 832)
    usual_guidance: ClassVar[float] = 5.0

    processor: BiasedCrossAttention

    @classmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        return transformer.get("_class_name") == "WanTransformer3DModel" and latents_alone(transformer)

    # -- loading ------------------------------------------------------------------------------------------

    def refuse(self, folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        second = index.get("transformer_2") or [None]
        if second[-1] is not None or index.get("boundary_ratio") is not None:
            raise UserError(f"{folder} has two experts (transformer_2), which flc does not compress yet")
        sees = config.get("image_dim") is not None or config.get("added_kv_proj_dim") is not None
        if sees and latents_alone(config):
            raise UserError(f"{folder} attends to an image and has no latents of it, which flc does not compress")

    def check_numbers(self, pipe: Any, folder: Path) -> None:
        vae = pipe.vae.config
        made = 2 ** sum(vae.temperal_downsample), 2 ** (len(vae.dim_mult) - 1) * (vae.patch_size or 1)
        if (said := (vae.scale_factor_temporal, vae.scale_factor_spatial)) != made:
            place = folder / "vae" / "config.json"
            raise UserError(f"{place}: scale factors in time and space are {said}, its layers make {made}")
        for name in ("latents_mean", "latents_std"):
            if not are_numbers(vae[name]) or len(vae[name]) != vae.z_dim:
                place = folder / "vae" / "config.json"
                raise UserError(f"{place}: {name} must be {vae.z_dim} numbers, one for each of its z_dim channels")

    def prepare(self, transformer: nn.Module) -> nn.Module:
        """Exchange the cross-attention processors of a stock Wan transformer. Returns it."""
        if not hasattr(self, "processor"):
            self.processor = BiasedCrossAttention()
        for block in transformer.blocks:  # type: ignore[union-attr]
            block.attn2.set_processor(self.processor)
        return transformer

    def running_dtype(self, transformer: Any) -> torch.dtype:
        """Its first parameter would mislead: diffusers keeps the scale-shift tables and some norms in float32 whatever
        is asked for."""
        return transformer.patch_embedding.weight.dtype

    def feed_forward(self, block: Any) -> nn.Module:
        return block.ffn

    @property
    def image_to_video(self) -> bool:
        """Whether a first frame may be given."""
        return bool(self.pipe.config.expand_timesteps)

    # -- sizes --------------------------------------------------------------------------------------------

    def fps_of(self, folder: Path) -> int:
        """What the folder's flc.json says, or Wan's own `sample_fps`: 24 for TI2V and 16 for the others."""
        return int(read_notes(folder).get("fps") or (24 if self.expands(folder) else 16))

    def takes_first_frame(self, folder: Path) -> bool:
        return self.expands(folder)

    def expands(self, folder: Path) -> bool:
        """Whether a folder's tokens have times of their own, those of a given first frame 0."""
        return bool(read_json(folder / "model_index.json").get("expand_timesteps"))

    def patch(self, transformer: Any) -> tuple[int, int, int]:
        return tuple(transformer.config.patch_size)

    def positions(self, transformer: Any) -> int | None:
        return transformer.config.rope_max_seq_len

    # -- encoding -----------------------------------------------------------------------------------------

    def encode_texts(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        embeds, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=TEXT_ROWS, device=self.device
        )
        return [(row[: max(1, n)],) for row, n in zip(embeds, text_lengths(embeds).tolist(), strict=True)]

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

    def normalised(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return (latents - mean) / std

    def raw(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return latents * std + mean

    # -- velocity -----------------------------------------------------------------------------------------

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        config: Any = module.config
        dtype = self.running_dtype(module)
        if self.image_to_video:
            _, ph, pw = config.patch_size
            tokens = t.view(-1, 1, 1).expand(-1, x.shape[2], (x.shape[3] // ph) * (x.shape[4] // pw)).clone()
            if cond.given is not None:
                tokens[cond.given, 0] = 0
            t = tokens.flatten(1)
        with self.padded_text(module, cond.text.to(dtype)) as text:
            v = call(cond.clamp(x).to(dtype), t.float() * TIME_SCALE, text, return_dict=False)[0]
        return v.float() * cond.free(x)

    @contextmanager
    def padded_text(self, module: nn.Module, text: Tensor, whole: bool = False) -> Iterator[Tensor]:
        """The rows of a text as the stock pipeline pads them, or, unless the `whole` of them is needed, fewer that
        stand for them with a bias of the cross-attentions, for the call inside."""
        # All networks share the processor: a block recomputed in backward must meet no bias of another one's call.
        if whole or getattr(module, "gradient_checkpointing", False):
            yield nn.functional.pad(text, (0, 0, 0, TEXT_ROWS - text.shape[1]))
            return
        text, self.processor.bias = collapse(text, TEXT_ROWS)
        try:
            yield text
        finally:
            self.processor.bias = None

    def recording_attention(self, frames: int, queries: int) -> Any:
        """A context in which one forward pass records each block's cross-frame share of attention."""
        attentions = {("blocks", i): block.attn1 for i, block in enumerate(blocks_of(self.transformer, "blocks"))}
        return recording(attentions, WanRecorder, frames, queries)

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
        return FewStepSchedule(scheduler, n, shift=k, sampler=sampler)

    def stock_class(self, with_image: bool) -> Any:
        return WanImageToVideoPipeline if with_image else self.classes["pipeline"]
