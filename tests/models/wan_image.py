"""A whole Wan 2.1 image-to-video pipeline in miniature, with random weights, as stock diffusers writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from flc.models.folder import EMBEDDED

#: What the encoder of images is shown.
SIGHT: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def eyes() -> dict[str, Any]:
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    return {"image_encoder": CLIPVisionModel(config), "image_processor": CLIPImageProcessor(**SIGHT)}


def transformer(layers: int = 4, sees: bool = True) -> Any:
    of_images = {"image_dim": 16, "added_kv_proj_dim": 24} if sees else {}
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=12, out_channels=4,
        text_dim=64, freq_dim=16, ffn_dim=32, num_layers=layers, rope_max_seq_len=32, **of_images,
    )  # fmt: skip


def write_pipeline(folder: Path, sees: bool = True, size: tuple[int, int, int] = (9, 32, 32)) -> Path:
    """4 blocks, awake; the embedded model's texts; an encoder of images where it `sees`; notes of a small size."""
    texts = WanPipeline.from_pretrained(EMBEDDED, transformer=None, vae=None)
    torch.manual_seed(0)
    network = transformer(sees=sees)
    with torch.no_grad():  # fresh gates and output layers are near zero and would hide what a block does
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[0.9, 1.1, 1.0, 1.2],
    )  # fmt: skip
    pipe: Any = WanImageToVideoPipeline(
        tokenizer=texts.tokenizer, text_encoder=texts.text_encoder, vae=vae, transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **(eyes() if sees else {}),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    (folder / "flc.json").write_text(json.dumps({"size": size, "fps": 8}))
    return folder
