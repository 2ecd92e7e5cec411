"""Methods of the comparison on a model that makes every clip from a first frame, to a folder that diffusers runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.pipelines import Contestant, Stock
from flc.data.source import drawn_clips, read_video
from flc.evaluate.manifest import Shot
from tests.cli.test_methods import OF_A_FAMILY, TINY
from tests.models import hunyuan_image, wan_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[wan_image, hunyuan_image], ids=["wan", "hunyuan"])
def model(request, tmp_path_factory) -> Path:
    return request.param.write_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture
def first(tmp_path) -> Path:
    ((video, _),) = drawn_clips(1, 5, 32, 32, seed=0)
    Image.fromarray((video[0] * 255).round().astype(np.uint8)).save(tmp_path / "first.png")
    return tmp_path / "first.png"


@pytest.fixture
def compress(flc, model, tmp_path):
    def run(flags: str, sets: dict[str, object]) -> Path:
        given = [part for name, value in (TINY | sets).items() for part in ("--set", f"{name}={value}")]
        code, _, err = flc("compress", "--model", model, "--out", tmp_path / "out", *flags.split(), *given)
        assert code == 0, err[-3000:]
        told = "evaluate.given_share has no effect: this model makes every clip from a first frame"
        assert (told in " ".join(err.split())) == ("evaluate.given_share" in sets)
        return tmp_path / "out"

    return run


@pytest.mark.parametrize("method", OF_A_FAMILY)
def test_a_method_ends_in_a_folder_that_stock_diffusers_runs_as_it_declares(
    compress, flc, model, first, tmp_path, method
):
    from diffusers import DiffusionPipeline

    out = compress(*OF_A_FAMILY[method])
    about = json.loads((out / "pipeline" / "flc.json").read_text())
    plan = json.loads((out / "score" / "plan.json").read_text())
    pipe = DiffusionPipeline.from_pretrained(out / "pipeline", dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == json.loads((model / "model_index.json").read_text())["_class_name"]
    stacks = {stack: len(getattr(pipe.transformer, stack)) for stack in plan["kept"]}
    assert stacks == {stack: len(kept) for stack, kept in plan["kept"].items()} and plan["share"] <= 0.7
    frames, height, width = about["size"]
    scale = about["guidance"]
    guided = {"true_cfg_scale": scale, "guidance_scale": 6.0} if len(stacks) == 2 else {"guidance_scale": scale}
    call = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": about["steps"],
            "output_type": "np", **guided}  # fmt: skip
    torch.manual_seed(3)
    video = pipe(image=Image.open(first), prompt="a red circle moving left", **call).frames[0]
    assert video.shape == (frames, height, width, 3) and np.isfinite(video).all() and video.std() > 0
    made = tmp_path / "clip.mp4"
    asked = ("generate", out / "pipeline", "--prompt", "a red circle moving left", "--seed", 3, "--out", made)
    code, _, err = flc(*asked, "--image", first)
    assert code == 0, err
    if about["sampler"] == "sde":  # seeded alike; of another the command seeds a generator of its own
        shown = read_video(made, frames, height * 4, width * 4)
        # H.264 at crf 16 with chroma at half resolution, of noise: a few 8-bit levels in the mean
        assert np.abs(shown - video.repeat(4, 1).repeat(4, 2)).mean() < 0.03
    made.unlink()
    code, _, err = flc(*asked)
    assert code == 2 and "--image is missing" in err.splitlines()[-1] and "from a first frame" in err


def test_every_clip_of_the_table_is_made_from_a_first_frame_and_the_card_says_how(compress):
    sets = {"evaluate.given_share": 0.25, "evaluate.clips": 6, "evaluate.videos": 3}
    out = compress("--pruner uniform --recovery none --distiller euler", sets)
    assert len(list((out / "evaluate" / "videos" / "student").glob("*.mp4"))) == 3
    metrics = json.loads((out / "metrics.json").read_text())
    assert all(prompt["given"] for prompt in metrics["prompts"])
    student = metrics["rows"][-1]
    assert student["scores"]["first_frame_fidelity"] is not None and student["scores"]["diversity"] is None
    card = (out / "pipeline" / "README.md").read_text()
    assert "pipeline_tag: image-to-video" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    ast.parse(code)
    assert 'image=load_image("first.png").resize((32, 32)),' in code and "ImageToVideoPipeline" in code


def test_prompts_without_an_image_are_refused_in_one_line(flc, model, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a red circle moving left"}) + "\n")
    manifest = ("--set", f"evaluate.manifest={tmp_path / 'prompts.jsonl'}")
    code, _, err = flc("compress", "--model", model, "--out", tmp_path / "out", *manifest)
    assert code == 2 and "has no image, and this model needs a first frame" in err.splitlines()[-1], err
    code, _, err = flc("compress", "--model", model, "--out", tmp_path / "out", *manifest, "--set",
                       "evaluate.suite=vbench")  # fmt: skip
    assert code == 2 and "which this model needs: use --suite vbench-i2v" in err.splitlines()[-1], err


def test_table_1_calls_it_with_a_first_frame_only(model, first):
    stock = Stock(Contestant("it", model, steps=2), "cpu", "float32")
    made = stock.clip(Shot("a red circle", 0, 5, first), (9, 32, 32))
    assert made.shape == (9, 32, 32, 3) and stock.parameters > 0 and stock.fps == 8
    with pytest.raises(Exception, match="needs a first frame"):
        stock.pipe(False)
