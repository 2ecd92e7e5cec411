"""The full sizes' recipes through `--dry-run`, on a small checkpoint of the family that stock diffusers writes."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from benchmarks.cells import Runs, Scale
from benchmarks.table2 import OURS, others
from flc.data.source import drawn_clips, write_video
from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.slow
#: What a laptop cannot do of the recipe: its device, precision, size and lengths.
SMALL = {
    "device": "cpu", "dtype": "float32", "frames": 5, "height": 32, "width": 32, "prepare": {"clips": 8},
    "recover": {"iterations": 8, "batch": 4}, "distill": {"iterations": 8, "batch": 4, "check_every": 0},
    "evaluate": {"clips": 2, "reference": 8, "teacher_steps": 2, "suite": "shapes"},
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A Wan 2.1 text-to-video pipeline of two heads and six blocks with random weights, and eight clips."""
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    embedded = WanPipeline.from_pretrained(EMBEDDED, torch_dtype=torch.float32)
    WanPipeline(
        tokenizer=embedded.tokenizer, text_encoder=embedded.text_encoder, scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer=WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=64, freq_dim=16,
            ffn_dim=64, num_layers=6, rope_max_seq_len=32,
        ),
    ).save_pretrained(model)  # fmt: skip
    with open(data / "captions.jsonl", "w") as captions:
        for index, (video, caption) in enumerate(drawn_clips(8, 5, 32, 32, seed=0)):
            write_video(data / f"{index}.mp4", video)
            captions.write(json.dumps({"file": f"{index}.mp4", "caption": caption}) + "\n")
    return {"model": str(model), "data": str(data)}


@pytest.mark.parametrize(
    ("name", "engine"),
    [("wan-1.3b", {"engine": "plain", "zero": None}), ("wan-14b", {}), ("wan-ti2v-5b", {})],
    ids=["plain", "deepspeed, as written", "image-to-video, deepspeed, as written"],
)
def test_the_flagships_cell_is_planned_with_its_memory_and_time(places, tmp_path, name, engine):
    runs = Runs(tmp_path, Scale(name, SMALL | places | engine), 1)
    said = runs.dry([OURS], 0)["fastlightgen"]
    assert "plan (elbo): 67% of block parameters stay" in said, said
    assert "blocks: keep [" in said and "recover" in said and "distill" in said and "nothing was written" in said
    assert list(tmp_path.iterdir()) == []


def test_a_family_without_adapter_is_refused_in_one_line(places, tmp_path):
    config = tmp_path / "transformer" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"_class_name": "HunyuanVideoTransformer3DModel"}))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "HunyuanVideoPipeline"}))
    runs = Runs(tmp_path / "runs", Scale("hunyuan-13b", SMALL | places | {"model": str(tmp_path)}), 1)
    few = others(tiny=False)[0]
    said = runs.dry([few], 0)[few.label]
    assert said.startswith("failed: ") and "no model adapter for HunyuanVideoPipeline" in said
