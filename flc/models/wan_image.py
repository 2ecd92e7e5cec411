"""Wan 2.1 image-to-video, as stock diffusers folders.

Every clip is made of a first frame, which the transformer sees in two ways: its latents, those of a clip that is grey
after it, are channels beside the noisy ones, with a mask that marks it; and CLIP's tokens of it are attended to beside
the text, where the model has an encoder for them. The clip's own first frame is made like the others: nothing of it is
given, and all of it counts in every loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel
from torch import Tensor, nn

from flc.errors import UserError
from flc.models.condition import Condition
from flc.models.first_frame import FirstFrameAdapter, pictures
from flc.models.folder import read_json
from flc.models.stock import TIME_SCALE, at_once
from flc.models.wan import WanAdapter, latents_alone

#: Of a pipeline, what a model without an encoder of images does without.
SEES = ("image_encoder", "image_processor")


class WanImageAdapter(FirstFrameAdapter, WanAdapter):
    """One loaded Wan 2.1 image-to-video pipeline."""

    family: ClassVar[str] = "Wan image-to-video"
    classes: ClassVar[dict[str, Any]] = {
        "pipeline": WanImageToVideoPipeline, "transformer": WanTransformer3DModel, "vae": AutoencoderKLWan,
    }  # fmt: skip
    optional: ClassVar[tuple[str, ...]] = SEES
    exact: ClassVar[tuple[str, ...]] = ("vae", "image_encoder")

    @classmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        return transformer.get("_class_name") == "WanTransformer3DModel" and not latents_alone(transformer)

    # -- loading ------------------------------------------------------------------------------------------

    def refuse(self, folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        super().refuse(folder, index, config)
        if index.get("expand_timesteps"):
            raise UserError(f"{folder} has times for each token and an image beside them, which flc does not compress")
        if config.get("pos_embed_seq_len") is not None:
            raise UserError(f"{folder} is made for a first and a last frame, which flc does not compress yet")
        extra = config.get("in_channels", 16) - config.get("out_channels", 16)
        vae = read_json(folder / "vae" / "config.json")
        beside = vae.get("z_dim", 16), vae.get("scale_factor_temporal", 4)
        if extra != sum(beside):
            raise UserError(f"{folder}: its transformer takes {extra} channels beside the latents, not {sum(beside)}")
        for name in SEES:
            if config.get("image_dim") is not None and (index.get(name) or [None])[-1] is None:
                raise UserError(
                    f"{folder / 'model_index.json'} names no {name}, and its transformer sees an image: name it there"
                )

    def ready(self, pipe: Any, folder: Path) -> None:
        """Of a processor for texts and images, as converters to diffusers name it, the part for images: transformers 5
        would write the whole of it under other names."""
        if (part := getattr(pipe.image_processor, "image_processor", None)) is not None:
            pipe.register_modules(image_processor=part)

    def check_numbers(self, pipe: Any, folder: Path) -> None:
        super().check_numbers(pipe, folder)
        if pipe.image_encoder is not None:
            self.check_sight(pipe, folder, pipe.image_encoder.config.image_size)

    # -- encoding -----------------------------------------------------------------------------------------

    def first_frames(self, images: np.ndarray, frames: int, prompts: Sequence[str] = ()) -> dict[str, Tensor]:
        """`image_latents` of the image in a clip that is grey after it, and CLIP's last states but one."""
        latents, count = [], at_once(frames, *images.shape[1:3])
        for begin in range(0, len(images), count):
            few = images[begin : begin + count]
            clips = np.full((len(few), frames, *images.shape[1:]), 0.5, np.float32)
            clips[:, 0] = few
            latents.append(self.encode(clips))
        found = {"image_latents": torch.cat(latents)}
        if self.pipe.transformer.config.image_dim is not None:
            found["image_tokens"] = self.tokens(images)
        return found

    @torch.no_grad()
    def tokens(self, images: np.ndarray) -> Tensor:
        """(B, N, E). The encoder is on the device only while it encodes."""
        shown = pictures(images)
        with self.at_work("image_encoder"):
            tokens = [self.pipe.encode_image(shown[i : i + 8], self.device) for i in range(0, len(shown), 8)]
        return torch.cat(tokens).float()

    # -- velocity -----------------------------------------------------------------------------------------

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert cond.image_latents is not None, "a first frame is always given"
        config: Any = module.config
        dtype = self.running_dtype(module)
        marks = config.in_channels - x.shape[1] - cond.image_latents.shape[1]
        mask = x.new_zeros(len(x), marks, *x.shape[2:])
        mask[:, :, 0] = 1
        tokens = cond.image_tokens
        seen = {} if tokens is None else {"encoder_hidden_states_image": tokens.to(dtype)}
        hidden = torch.cat([x, mask, cond.image_latents.to(x.dtype)], dim=1).to(dtype)
        # stock cross-attention takes what comes before the last 512 rows for the image's
        with self.padded_text(module, cond.text.to(dtype), whole=tokens is not None) as text:
            return call(hidden, t.float() * TIME_SCALE, text, **seen, return_dict=False)[0].float()
