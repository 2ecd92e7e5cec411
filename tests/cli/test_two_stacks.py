"""Methods of the comparison on a HunyuanVideo checkpoint, to a folder that stock diffusers loads and runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pipelines import Contestant, Stock
from flc.data.source import read_video
from flc.evaluate.manifest import Shot
from flc.models.folder import adapter_for
from tests.cli.test_methods import OF_A_FAMILY, SCORE, TINY
from tests.models.hunyuan import write_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture
def compress(flc, hunyuan, tmp_path):
    def run(flags: str, sets: dict[str, object]) -> Path:
        given = [part for name, value in (TINY | sets).items() for part in ("--set", f"{name}={value}")]
        code, _, err = flc("compress", "--model", hunyuan, "--out", tmp_path / "out", *flags.split(), *given)
        assert code == 0, err[-3000:]
        return tmp_path / "out"

    return run


@pytest.mark.parametrize("method", OF_A_FAMILY)
def test_a_method_ends_in_a_folder_that_stock_diffusers_runs_as_it_declares(compress, flc, tmp_path, method):
    from diffusers import HunyuanVideoPipeline

    out = compress(*OF_A_FAMILY[method])
    about = json.loads((out / "pipeline" / "flc.json").read_text())
    plan = json.loads((out / "score" / "plan.json").read_text())
    pipe = HunyuanVideoPipeline.from_pretrained(out / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for stack, entry in (("transformer_blocks", "num_layers"), ("single_transformer_blocks", "num_single_layers")):
        assert pipe.transformer.config[entry] == len(plan["kept"][stack]) == len(getattr(pipe.transformer, stack))
    assert plan["share"] <= 0.7 and sum(map(len, plan["kept"].values())) < 7
    assert about["guidance"] == 1.0 and about["embedded_guidance"] == 6.0, "its teacher has none by the text"
    card = (out / "pipeline" / "README.md").read_text()
    assert "true_cfg_scale=1.0, guidance_scale=6.0," in card and "pipe.vae.enable_tiling()" in card
    frames, height, width = about["size"]
    torch.manual_seed(3)
    video = pipe("a red circle moving left", height=height, width=width, num_frames=frames, output_type="np",
                 num_inference_steps=about["steps"], true_cfg_scale=1.0, guidance_scale=6.0).frames[0]  # fmt: skip
    assert video.shape == (frames, height, width, 3) and np.isfinite(video).all() and video.std() > 0
    made = tmp_path / "clip.mp4"
    code, _, err = flc("generate", out / "pipeline", "--prompt", "a red circle moving left", "--seed", 3, "--out", made)
    assert code == 0, err
    if about["sampler"] == "sde":  # seeded alike; of another the command seeds a generator of its own
        shown = read_video(made, frames, height * 4, width * 4)
        # H.264 at crf 16 with chroma at half resolution, of noise: a few 8-bit levels in the mean
        assert np.abs(shown - video.repeat(4, 1).repeat(4, 2)).mean() < 0.03


def test_a_budget_below_one_block_of_each_stack_is_said(flc, hunyuan, tmp_path):
    given = [part for name, value in (TINY | SCORE).items() for part in ("--set", f"{name}={value}")]
    code, _, err = flc("score", "--model", hunyuan, "--out", tmp_path / "out", "--keep", 0.2, *given)
    assert code == 2 and "--keep 0.2 is less than one block of each stack, which is 0.3" in err.splitlines()[-1], err


def test_one_step_of_a_students_own_grid_is_a_schedule(compress, flc, tmp_path):
    out = compress("--pruner uniform --recovery none --distiller euler", {})
    code, _, err = flc("generate", out / "pipeline", "--prompt", "a", "--steps", 1, "--out", tmp_path / "one.mp4")
    assert code == 0 and "was trained for 4 steps" in err, err


@pytest.mark.parametrize("name", ["HunyuanVideoImageToVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline"])
def test_another_pipeline_of_the_same_transformer_is_refused_by_every_command(flc, hunyuan, tmp_path, name):
    other = shutil.copytree(hunyuan, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    for command in (["generate", other, "--prompt", "a", "--out", tmp_path / "a.mp4"],
                    ["compress", "--model", other, "--out", tmp_path / "out"]):  # fmt: skip
        code, _, err = flc(*command)
        assert code == 2 and f"no model adapter for {name}" in err and "wan" in err, err


def test_a_plan_with_channels_is_refused_in_one_line(flc, hunyuan, tmp_path):
    kept = {"transformer_blocks": [0, 1], "single_transformer_blocks": [0]}
    channels = {"transformer_blocks": [[0, 1]] * 3, "single_transformer_blocks": [[0, 1]] * 4}
    (tmp_path / "plan.json").write_text(json.dumps({"kept": kept, "channels": channels}))
    code, _, err = flc("prune", "--model", hunyuan, "--plan", tmp_path / "plan.json", "--out", tmp_path / "out")
    assert code == 2 and "feed-forward layers of this family cannot be narrowed" in err, err


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_table_1_calls_it_as_its_folder_means(hunyuan, tmp_path, guidance):
    """Its clip is that of the stock pipeline with guidance by the text, which needs a negative prompt."""
    other = shutil.copytree(hunyuan, tmp_path / "other")
    notes = json.loads((other / "flc.json").read_text()) | {"guidance": 2.0}
    (other / "flc.json").write_text(json.dumps(notes))
    stock = Stock(Contestant("it", other, steps=2, guidance=guidance), "cpu", "float32")
    scale = guidance or 2.0
    assert stock.settings(False) == {"num_inference_steps": 2, "true_cfg_scale": scale, "guidance_scale": 6.0,
                                     "negative_prompt": ""}  # fmt: skip
    made = stock.clip(Shot("a red circle", 0, 5, None), (9, 32, 32))
    pipe = adapter_for(other).stock_pipeline(other, False)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(5)
    call = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "output_type": "np"}
    expected = pipe("a red circle", negative_prompt="", true_cfg_scale=scale, **call).frames[0]
    assert np.array_equal(made, expected) and stock.guidance == scale and stock.fps == 8


def test_layers_that_cannot_be_narrowed_are_said_in_one_line(flc, hunyuan, tmp_path):
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'flc[prune]'")
    given = [part for name, value in (TINY | SCORE).items() for part in ("--set", f"{name}={value}")]
    code, _, err = flc("compress", "--model", hunyuan, "--out", tmp_path / "out", "--pruner", "width", *given)
    last = err.splitlines()[-1]
    assert code == 2 and "feed-forward layers of this family cannot be narrowed: take a pruner of blocks" in last, err
