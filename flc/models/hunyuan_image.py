"""HunyuanVideo image-to-video, as stock diffusers folders whose transformer replaces the tokens of the first frame.

Every clip is made of a first frame. Its latents are the clip's first ones, clean at t = 0, and leave a trace in the
noise of all others (.1 %); what a language model that sees it makes of image and prompt is the text. The first frame is
encoded alone, as the stock pipeline does: the autoencoder's normalisation would mix it with the frames after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from PIL import Image
from torch import Tensor, nn

from flc.errors import UserError
from flc.family import EVERY, Part
from flc.models.condition import Condition
from flc.models.first_frame import FirstFrameAdapter, pictures
from flc.models.hunyuan import TEXT_ROWS, HunyuanAdapter

#: The stock pipeline's: of the image's rows every fourth is shown; of the black one's, beside a negative prompt, every
#: second.
FOURTH, OF_BLACK = 4, 2
TRACE = 0.001
"""How much of the first frame is in the noise that a clip begins from."""


class HunyuanImageAdapter(FirstFrameAdapter, HunyuanAdapter):
    """One loaded HunyuanVideo image-to-video pipeline."""

    family: ClassVar[str] = "HunyuanVideo image-to-video"
    classes: ClassVar[dict[str, Any]] = {
        "pipeline": HunyuanVideoImageToVideoPipeline, "transformer": HunyuanVideoTransformer3DModel,
        "vae": AutoencoderKLHunyuanVideo,
    }  # fmt: skip
    optional: ClassVar[tuple[str, ...]] = ("image_processor",)
    template: ClassVar[dict[str, Any]] = DEFAULT_PROMPT_TEMPLATE

    #: Of each negative prompt, the rows of its text over a black image.
    _black: dict[str, Tensor]

    @classmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        named = index.get("_class_name"), transformer.get("_class_name")
        ours = named == ("HunyuanVideoImageToVideoPipeline", "HunyuanVideoTransformer3DModel")
        return ours and transformer.get("image_condition_type") is not None

    # -- loading ------------------------------------------------------------------------------------------

    def refuse(self, folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        super().refuse(folder, index, config)
        if (index.get("image_processor") or [None])[-1] is None:
            raise UserError(
                f"{folder / 'model_index.json'} names no image_processor, which the pipeline needs: name it there"
            )

    def refuse_kind(self, folder: Path, config: Mapping[str, Any]) -> None:
        channels = (config.get("in_channels", 16), config.get("out_channels", 16))
        if config.get("image_condition_type") != "token_replace" or channels[0] != channels[1]:
            raise UserError(
                f"{folder} has its first frame as channels beside the clip, which flc does not compress yet"
            )

    def check_numbers(self, pipe: Any, folder: Path) -> None:
        super().check_numbers(pipe, folder)
        sight: Any = getattr(pipe.text_encoder.config, "vision_config", None)
        if sight is None:
            raise UserError(
                f"{folder / 'text_encoder'} sees no image: its config must have a vision_config, as a Llava's has"
            )
        rows, expected = (sight.image_size // sight.patch_size) ** 2, self.template["image_emb_len"]
        if rows != expected:
            raise UserError(f"{folder / 'text_encoder'} makes {rows} rows of an image, not the stock {expected}")
        self.check_sight(pipe, folder, sight.image_size)

    def load(self, folder: Path, device: str = "cpu", dtype: str = "float32", parts: frozenset[Part] = EVERY) -> Self:
        self._black = {}
        return super().load(folder, device, dtype, parts)

    # -- encoding -----------------------------------------------------------------------------------------

    def encode_texts(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """CLIP's pooled states alone."""
        rows = torch.zeros(len(prompts), 1, 1, device=self.device)  # stands for the language model's
        _, pooled, _ = self.pipe.encode_prompt(None, list(prompts), prompt_embeds=rows, device=self.device)
        return [(one,) for one in pooled]

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([encoded[0] for encoded in self.texts(prompts)]).to(self.device)

    @torch.no_grad()
    def seen(self, images: Sequence[Image.Image], prompts: Sequence[str], every: int) -> list[Tensor]:
        """Of each image and its prompt (L, D), what the language model makes of both: one at a time, because the stock
        pipeline cannot cut a prompt that is too long in a batch."""
        out = []
        with self.at_work("text_encoder"):
            for image, prompt in zip(images, prompts, strict=True):
                rows, _, mask = self.pipe.encode_prompt(
                    image, [prompt], pooled_prompt_embeds=torch.zeros(1), device=self.device,
                    max_sequence_length=TEXT_ROWS, image_embed_interleave=every,
                )  # fmt: skip
                out.append(rows[0, : int(mask.sum())])
        return out

    def nothing(self, negative: str) -> Tensor:
        """(1, L, D) of the negative prompt, over a black image."""
        if negative not in self._black:
            (rows,) = self.seen([Image.new("RGB", (64, 64))], [negative], OF_BLACK)
            self._black[negative] = rows.cpu().clone()
        return self._black[negative][None].to(self.device)

    def condition(
        self, prompts: Sequence[str], negative: str = "", first: Tensor | None = None, given: Tensor | None = None
    ) -> Condition:
        """Its text is that of no prompt, until `first_frames` say what is seen."""
        assert given is None, "a first frame is always given"
        null = self.nothing(negative)
        return Condition(
            null.expand(len(prompts), -1, -1), null, pooled=self.pooled(prompts), null_pooled=self.pooled([negative]),
            trace=TRACE,
        )  # fmt: skip

    def first_frames(self, images: np.ndarray, frames: int, prompts: Sequence[str] = ()) -> dict[str, Tensor]:
        """`first`, the latents of the image alone, `given` and the `text` of image and prompt."""
        text = nn.utils.rnn.pad_sequence(self.seen(pictures(images), prompts, FOURTH), batch_first=True)
        given = torch.ones(len(images), dtype=torch.bool, device=self.device)
        return {"first": self.encode(images[:, None]), "given": given, "text": text}

    # -- velocity -----------------------------------------------------------------------------------------

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert cond.first is not None, "a first frame is always given"
        return super().velocity(call, module, cond.clamp(x), t, cond) * cond.free(x)
