"""The embedded model is a whole stock pipeline, and small."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from flc.data.shapes import draw, sample_spec
from flc.models.folder import EMBEDDED

SIZE = {"height": 48, "width": 48, "num_frames": 5, "num_inference_steps": 2}


def test_it_is_at_most_12_MB_of_safetensors_with_ten_blocks_that_takes_a_first_frame():
    files = [f for f in EMBEDDED.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 12e6
    assert {f.suffix for f in files} == {".json", ".safetensors"}
    config = json.loads((EMBEDDED / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "WanTransformer3DModel" and config["num_layers"] >= 10
    index = json.loads((EMBEDDED / "model_index.json").read_text())
    assert index["expand_timesteps"] is True


def test_no_file_of_it_names_a_place():
    for file in EMBEDDED.rglob("*.json"):
        assert "_name_or_path" not in file.read_text(), file


@pytest.mark.parametrize("kind", [WanPipeline, WanImageToVideoPipeline])
def test_stock_pipelines_load_and_run_it(kind):
    pipe = kind.from_pretrained(EMBEDDED, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    first = draw(sample_spec(np.random.default_rng(0), "a red circle moving left"))[0]
    image = Image.fromarray((first * 255).round().astype(np.uint8))
    extra = {"image": image} if kind is WanImageToVideoPipeline else {}
    generator = torch.Generator().manual_seed(0)
    video = pipe(prompt="a red circle moving left", **extra, **SIZE, generator=generator, output_type="np").frames[0]
    assert video.shape == (5, 48, 48, 3) and np.isfinite(video).all()
    if extra:  # a given frame comes back through the autoencoder, which is off by three 8-bit levels on average
        assert np.abs(video[0] - np.asarray(image) / 255).mean() < 0.02
