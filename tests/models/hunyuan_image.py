"""A whole HunyuanVideo image-to-video pipeline in miniature, with random weights, as stock diffusers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from tests.models.hunyuan import IMAGE, llama_config, llama_tokenizer, pooled_encoder, save, transformer


def encoders(sight: int) -> dict[str, Any]:
    """An image of 48 rows is 24 x 24 patches: the stock pipeline cuts 576."""
    first = llama_tokenizer(DEFAULT_PROMPT_TEMPLATE)
    eyes = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=sight, patch_size=2
    )
    whole = LlavaConfig(
        vision_config=eyes, text_config=llama_config(first), image_token_index=first.convert_tokens_to_ids(IMAGE),
        pad_token_id=first.pad_token_id,
    )  # fmt: skip
    sees = CLIPImageProcessor(size={"shortest_edge": sight}, crop_size={"height": sight, "width": sight})
    return {
        "tokenizer": first, "text_encoder": LlavaForConditionalGeneration(whole), "image_processor": sees,
        **pooled_encoder(),
    }  # fmt: skip


def write_pipeline(folder: Path, size: tuple[int, int, int] = (9, 32, 32), sight: int = 48) -> Path:
    """Two stacks of 3 and 4 blocks, awake; notes of a small size. Returns the folder."""
    torch.manual_seed(0)
    network = transformer(image_condition_type="token_replace")
    return save(folder, HunyuanVideoImageToVideoPipeline, network, size, encoders(sight))
