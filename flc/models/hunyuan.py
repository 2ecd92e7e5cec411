"""HunyuanVideo text-to-video, as stock diffusers folders.

Its published weights have guidance distilled in: the scale is an input of the transformer. Every call here is given the
same one, the folder's (`embedded_guidance` in flc.json, or 6 as in the stock pipeline), and guidance by the text, which
the rest of flc speaks of, comes on top (`true_cfg_scale`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from flc.api import TeacherComposer
from flc.errors import UserError
from flc.models.attention import HunyuanRecorder, recording
from flc.models.condition import Condition
from flc.models.folder import read_json
from flc.models.notes import read_notes
from flc.models.stock import TIME_SCALE, StockAdapter, are_numbers
from flc.models.text_padding import text_lengths
from flc.models.view import blocks_of
from flc.schedule import FewStepSchedule, Sampler

EMBEDDED_GUIDANCE = 6.0  # the stock pipeline's
TEXT_ROWS = 256  # of Llama's states, after the prompt template's (max_sequence_length)


class HunyuanAdapter(StockAdapter):
    """One loaded HunyuanVideo pipeline. Padding rows of a text are masked in every attention, so none are kept."""

    family: ClassVar[str] = "HunyuanVideo"
    classes: ClassVar[dict[str, Any]] = {
        "pipeline": HunyuanVideoPipeline, "transformer": HunyuanVideoTransformer3DModel,
        "vae": AutoencoderKLHunyuanVideo,
    }  # fmt: skip
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    stacks: ClassVar[dict[str, str]] = {
        "transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers",
    }  # fmt: skip
    #: None can be narrowed: one `mlp_ratio` counts the channels of both stacks and of a text's layers.
    ffn: ClassVar[dict[str, str]] = {}
    lora: ClassVar[tuple[str, ...]] = (
        "to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out",
    )  # fmt: skip
    usual_size: ClassVar[tuple[int, int, int]] = (129, 720, 1280)
    usual_guidance: ClassVar[float] = 1.0
    guidance_argument: ClassVar[str] = "true_cfg_scale"
    setup: ClassVar[tuple[str, ...]] = ("pipe.vae.enable_tiling()",)
    #: What the stock pipeline puts around a prompt for Llama.
    template: ClassVar[dict[str, Any]] = DEFAULT_PROMPT_TEMPLATE

    @classmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        named = index.get("_class_name"), transformer.get("_class_name")
        return named == ("HunyuanVideoPipeline", "HunyuanVideoTransformer3DModel")

    # -- loading ------------------------------------------------------------------------------------------

    def refuse(self, folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.refuse_kind(folder, config)
        if config.get("patch_size_t", 1) != 1:
            raise UserError(f"{folder} has tokens of several latent frames, which flc does not compress yet")

    def refuse_kind(self, folder: Path, config: Mapping[str, Any]) -> None:
        """By what the transformer takes."""
        channels = (config.get("in_channels", 16), config.get("out_channels", 16))
        if config.get("image_condition_type") is not None or channels[0] != channels[1]:
            raise UserError(
                f"{folder} has a transformer for image-to-video, and model_index.json names another pipeline"
            )

    def check_numbers(self, pipe: Any, folder: Path) -> None:
        scale = pipe.vae.config.scaling_factor
        if not are_numbers([scale]) or scale == 0:
            raise UserError(f"{folder / 'vae' / 'config.json'}: scaling_factor must be a number other than 0")
        axes, width = pipe.transformer.config.rope_axes_dim, pipe.transformer.config.attention_head_dim
        if len(axes) != 3 or sum(axes) != width or any(size < 2 or size % 2 for size in axes):
            place = folder / "transformer" / "config.json"
            raise UserError(f"{place}: rope_axes_dim {list(axes)} must be three even numbers that add up to {width}")
        place = folder / "tokenizer"
        if pipe.tokenizer.padding_side != "right":
            raise UserError(f"{place}: padding_side must be right, which the transformer takes for granted")
        begins, cut = self.template["template"].partition("{}")[0], self.template["crop_start"]
        found = len(pipe.tokenizer(begins).input_ids)
        if found != cut:
            raise UserError(
                f"{place} makes {found} tokens of the stock prompt template, not {cut}: take the model's own tokenizer"
            )

    def prepare(self, transformer: nn.Module) -> nn.Module:
        """Stock as it is. Returns it."""
        return transformer

    def ready(self, pipe: Any, folder: Path) -> None:
        """Clips beyond 256 pixels in tiles, as the family's own examples have it; the tokenizer as its file says.

        transformers 5 makes a Llama tokenizer of vocabulary and merges alone: how Llama 3's tokenizer.json splits words
        and what it begins with are lost, and a pipeline that is saved with it writes that down.
        """
        pipe.vae.enable_tiling()
        if (folder / "tokenizer" / "tokenizer.json").exists():
            whole = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
            pipe.register_modules(tokenizer=whole)

    def mend(self, folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
        """The tokenizer is written as one of whose kind every transformers reads the file itself (see `ready`)."""
        place = folder / "tokenizer"
        if not (place / "tokenizer.json").exists():
            return {}
        whole = PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True)
        whole.save_pretrained(place)
        return {"tokenizer": ["transformers", type(whole).__name__]}

    def running_dtype(self, transformer: Any) -> torch.dtype:
        return transformer.x_embedder.proj.weight.dtype

    @property
    def image_to_video(self) -> bool:
        return False

    # -- sizes --------------------------------------------------------------------------------------------

    def guidance_of(self, folder: Path) -> float:
        """What the folder's flc.json says; else none where guidance is distilled in, and where it is not as much as
        usually is (ours)."""
        said = read_notes(folder).get("guidance")
        return float(said) if said else (self.usual_guidance if embeds(folder) else EMBEDDED_GUIDANCE)

    def fps_of(self, folder: Path) -> int:
        """What the folder's flc.json says, or HunyuanVideo's own 24."""
        return int(read_notes(folder).get("fps") or 24)

    def takes_first_frame(self, folder: Path) -> bool:
        return False

    def patch(self, transformer: Any) -> tuple[int, int, int]:
        config = transformer.config
        return config.patch_size_t, config.patch_size, config.patch_size

    # -- encoding -----------------------------------------------------------------------------------------

    def encode_texts(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """Llama's states after the template, and CLIP's pooled ones."""
        embeds, pooled, mask = self.pipe.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=TEXT_ROWS
        )  # fmt: skip
        lengths = mask.sum(1).long().clamp(min=1).tolist()
        return [(rows[:n], one) for rows, one, n in zip(embeds, pooled, lengths, strict=True)]

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """(B, P)"""
        return torch.stack([encoded[1] for encoded in self.texts(prompts)]).to(self.device)

    def condition(
        self, prompts: Sequence[str], negative: str = "", first: Tensor | None = None, given: Tensor | None = None
    ) -> Condition:
        assert given is None, "a text-to-video model"
        null, null_pooled = self.text([negative]), self.pooled([negative])
        return Condition(self.text(prompts), null, pooled=self.pooled(prompts), null_pooled=null_pooled)

    def normalised(self, latents: Tensor) -> Tensor:
        return latents * self.pipe.vae.config.scaling_factor

    def raw(self, latents: Tensor) -> Tensor:
        return latents / self.pipe.vae.config.scaling_factor

    # -- velocity -----------------------------------------------------------------------------------------

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        config: Any = module.config
        assert cond.pooled is not None
        dtype, text = self.running_dtype(module), cond.text
        rows = torch.arange(text.shape[1], device=text.device)
        mask = (rows < text_lengths(text).clamp(min=1)[:, None]).to(dtype)
        # in the precision in which the stock pipeline multiplies it
        scale = torch.full((len(x),), embedded_guidance(self.notes), dtype=dtype, device=x.device) * TIME_SCALE
        v = call(
            x.to(dtype), t.float() * TIME_SCALE, text.to(dtype), mask, cond.pooled.to(dtype),
            guidance=scale if config.guidance_embeds else None, return_dict=False,
        )[0]  # fmt: skip
        return v.float()

    def recording_attention(self, frames: int, queries: int) -> Any:
        """A context in which one forward pass records each block's cross-frame share of attention."""
        blocks = {(s, i): b for s in self.stacks for i, b in enumerate(blocks_of(self.transformer, s))}
        attentions = {key: block.attn for key, block in blocks.items()}
        return recording(attentions, HunyuanRecorder, frames, queries)

    # -- deployment ---------------------------------------------------------------------------------------

    def grid(self, steps: int) -> tuple[float, ...]:
        """The stock pipeline's, which the scheduler shifts."""
        return tuple(np.linspace(1.0, 0.0, steps + 1)[:-1].tolist())

    def schedule(self, steps: int, shift: float, sampler: Sampler) -> FewStepSchedule:
        """The n-step, shift-k schedule: the scheduler shifts the pipeline's own grid by its k, once."""
        scheduler = FlowMatchEulerDiscreteScheduler(shift=float(shift), stochastic_sampling=sampler == "sde")
        return FewStepSchedule(scheduler, steps, self.grid(steps), shift=float(shift), sampler=sampler)

    def call_settings(self, folder: Path, guidance: float, negative: str = "") -> dict[str, Any]:
        """The stock pipeline guides by the text only where it is given a negative prompt, be it an empty one."""
        settings: dict[str, Any] = {self.guidance_argument: guidance}
        settings |= {"guidance_scale": embedded_guidance(read_notes(folder))} if embeds(folder) else {}
        return settings | ({"negative_prompt": negative} if guidance > 1 else {})

    def declaration(self) -> dict[str, Any]:
        embedded = self.pipe.transformer.config.guidance_embeds
        return {"embedded_guidance": embedded_guidance(self.notes)} if embedded else {}

    def advice(self, teacher: TeacherComposer, asked: Collection[str]) -> str | None:
        guided = any(query.condition == "null" for query in teacher.needs())
        if not guided or not self.declaration() or not {"scale", "beta1"}.isdisjoint(asked):
            return None
        own = "beta1" if hasattr(teacher.options, "beta1") else "scale"
        scale = getattr(teacher.options, own)
        return (
            f"guidance is distilled into these weights, and the teacher adds more by the text, its default {own}"
            f" {scale:g}: --set teacher.{own}=... says how much (the paper's is 2)"
        )


def embeds(folder: Path) -> bool:
    """Whether a scale of guidance is an input of a folder's transformer."""
    return bool(read_json(folder / "transformer" / "config.json").get("guidance_embeds", True))


def embedded_guidance(notes: Mapping[str, Any]) -> float:
    """That scale."""
    return float(notes.get("embedded_guidance", EMBEDDED_GUIDANCE))
