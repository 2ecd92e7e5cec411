"""The embedded model is a whole stock pipeline, and small."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from safetensors.torch import load_file

from flc.data.shapes import draw, sample_spec
from flc.models.folder import EMBEDDED, adapter_for

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
    pipe = kind.from_pretrained(EMBEDDED, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    first = draw(sample_spec(np.random.default_rng(0), "a red circle moving left"))[0]
    image = Image.fromarray((first * 255).round().astype(np.uint8))
    extra = {"image": image} if kind is WanImageToVideoPipeline else {}
    generator = torch.Generator().manual_seed(0)
    video = pipe(prompt="a red circle moving left", **extra, **SIZE, generator=generator, output_type="np").frames[0]
    assert video.shape == (5, 48, 48, 3) and np.isfinite(video).all()
    if extra:  # a given frame comes back through the autoencoder, which is off by three 8-bit levels on average
        assert np.abs(video[0] - np.asarray(image) / 255).mean() < 0.02


def test_a_text_encoder_whose_tied_embeddings_its_config_calls_untied_is_read_as_published_ones_are(adapter, tmp_path):
    """Published Wan folders say so, and hold `shared.weight` alone: transformers before 5.3 found no other table."""
    shutil.copytree(EMBEDDED, tmp_path / "model")
    config = tmp_path / "model" / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    weights = load_file(tmp_path / "model" / "text_encoder" / "model.safetensors")
    assert "shared.weight" in weights and "encoder.embed_tokens.weight" not in weights
    found = adapter_for(tmp_path / "model").load(tmp_path / "model")
    prompts = ["a red circle moving left"]
    assert torch.equal(found.text(prompts), adapter.text(prompts))
