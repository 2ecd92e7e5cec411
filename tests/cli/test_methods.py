"""Every method of the comparison through `flc compress` to a folder that stock diffusers loads and runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.slow

TINY = {
    "prepare.clips": 8, "score.batch": 4, "recover.iterations": 2, "recover.batch": 2, "distill.iterations": 3,
    "distill.batch": 2, "distill.check_every": 0, "evaluate.clips": 2, "evaluate.seeds": 1, "evaluate.reference": 8,
    "evaluate.teacher_steps": 2, "evaluate.videos": 0, "evaluate.rows": '["student"]',
}  # fmt: skip
README = Path(__file__).parents[2] / "baselines" / "README.md"
SCORE, MATCH = {"pruner.samples": 4}, {"distiller.fake_warmup": 1, "distiller.ratio": 2}
OWN = None
"""The guidance that the base model's folder declares."""
MORE: dict[str, dict[str, object]] = {
    "the untouched teacher": SCORE, "F3-Pruning": SCORE, "ICMD": SCORE, "DMD2": SCORE | MATCH,
    "DMD": SCORE | MATCH | {"distiller.regression_steps": 2}, "LCM": SCORE | {"distiller.grid": 4},
    "MagicDistillation": SCORE | MATCH, "CoDMD": SCORE | MATCH | {"distill.batch": 4},
}  # fmt: skip
"""For each method of the table in baselines/README.md, what makes it short."""


def documented() -> dict[str, tuple[str, dict[str, object], float | None]]:
    """The methods' own rows, as baselines/README.md has them."""
    rows = [line.strip("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    flags = {name: text.strip("`") for name, text in (row for row in rows if len(row) == 2)}
    dmd2, dmd = flags["DMD2"], flags["DMD"].partition("the same, with `")[2]
    flags["DMD"] = f"{dmd2} {dmd}"
    assert flags.keys() == MORE.keys()
    return {name: (text, MORE[name], OWN if "euler" in text else 1.0) for name, text in flags.items()}


METHODS: dict[str, tuple[str, dict[str, object], float | None]] = documented() | {
    "random, lcm": ("--pruner random --recovery none --distiller lcm --teacher cfg", {"distiller.grid": 4}, 1.0),
    "shortgpt, magic": ("--pruner shortgpt --recovery none --distiller magic --teacher magic", SCORE | MATCH, 1.0),
    "taylor, codmd": ("--pruner taylor --recovery none --distiller codmd", SCORE | MATCH, 1.0),
    "uniform, sft": ("--pruner uniform --recovery sft", MATCH, 1.0),
    "magnitude": ("--pruner magnitude", MATCH, 1.0),
    "width": ("--pruner width", SCORE | MATCH, 1.0),
    "width and depth": ("--pruner width --keep 0.5 --teacher strong", SCORE | MATCH | {"pruner.least": 0.5}, 1.0),
    "elbo and dmd2": ("--pruner elbo --distiller dmd2", SCORE | MATCH, 1.0),
}


#: Flags and what makes them short, each with the part of the project that another family of models reaches last.
OF_A_FAMILY: dict[str, tuple[str, dict[str, object]]] = {
    "the flagship": ("--pruner elbo", SCORE | MATCH | {"distill.check_every": 2, "evaluate.rows": "[]"}),
    "attention's share": ("--pruner f3 --recovery none --distiller lcm --teacher cfg", SCORE | {"distiller.grid": 4}),
    "motion and features": ("--pruner icmd --recovery icmd --distiller euler --steps 28", SCORE),
    "low-rank fake": ("--pruner shortgpt --recovery none --distiller magic --teacher magic", SCORE | MATCH),
    "features and a head": ("--pruner taylor --recovery none --distiller dmd2 --teacher cfg", SCORE | MATCH),
}


@pytest.fixture
def compress(flc, tmp_path):
    """`compress(flags, sets, stage)` in one folder; the folder."""

    def run(flags: str, sets: dict[str, object], stage: str = "compress") -> Path:
        out = tmp_path / "out"
        given = [part for key, value in (TINY | sets).items() for part in ("--set", f"{key}={value}")]
        code, _, err = flc(stage, "--out", out, *flags.split(), *given)
        assert code == 0, err[-3000:]
        return out

    return run


def declared(out: Path) -> dict:
    return json.loads((out / "pipeline" / "flc.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_ends_in_a_folder_that_stock_diffusers_runs_as_it_declares(compress, adapter, method):
    from diffusers import WanPipeline

    flags, sets, guidance = METHODS[method]
    out = compress(flags, sets)
    about, plan = declared(out), json.loads((out / "score" / "plan.json").read_text())
    expected = adapter.guidance_of(EMBEDDED) if guidance is OWN else guidance
    assert about["guidance"] == expected and adapter.guidance_of(EMBEDDED) > 1
    asked = flags.partition("--steps ")[2].split()
    assert about["steps"] == (int(asked[0]) if asked else 4)
    assert json.loads((out / "metrics.json").read_text())["rows"][0]["guidance"] == expected
    assert f"guidance_scale={expected}" in (out / "pipeline" / "README.md").read_text()
    pipe = WanPipeline.from_pretrained(out / "pipeline", local_files_only=True)
    assert pipe.transformer.config.num_layers == len(plan["kept"]["blocks"]) == len(pipe.transformer.blocks)
    if method.startswith("width"):
        assert {pipe.transformer.config.ffn_dim} == {len(b) for b in plan["channels"]["blocks"]}
        assert pipe.transformer.config.ffn_dim < adapter.transformer.config.ffn_dim
    removal = plan["removal"]
    assert removal["clips"] == 64 and 0 < removal["whole"] <= removal["pruned"]
    assert (removal["whole"] == removal["pruned"]) == ("--keep 1" in flags)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(about["steps"])
    assert pipe.scheduler.sigmas.tolist() == pytest.approx(about["sigmas"], abs=1e-6)  # float32
    frames, height, width = about["size"]
    torch.manual_seed(0)
    video = pipe("a red circle moving left", height=height, width=width, num_frames=frames, output_type="np",
                 num_inference_steps=about["steps"], guidance_scale=about["guidance"]).frames[0]  # fmt: skip
    assert video.shape == (frames, height, width, 3) and np.isfinite(video).all() and video.std() > 0


def test_an_undistilled_student_declares_the_guidance_it_is_asked_for_again(compress):
    """A stage that is done is skipped unless what it depends on has changed: the declared guidance has."""
    out = compress("--pruner random --recovery none --distiller euler", {})
    before = json.loads((out / "distill" / "student.json").read_text())
    assert before["teacher"] == "none" and before["sampler"] == "ode"
    compress("--resume --guidance 2.5", {}, "distill")
    assert json.loads((out / "distill" / "student.json").read_text()) == before | {"guidance": 2.5}


def test_a_teacher_that_a_narrowing_plan_cannot_have_is_refused_before_stage_two(flc, tmp_path):
    flags = ["--pruner", "width", "--distiller", "magic", "--teacher", "magic", "--out"]
    sets = TINY | SCORE | {"teacher.network": "unpruned"}
    given = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    code, _, err = flc("compress", *flags, tmp_path / "out", *given)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "which is the model's own here and has none" in last, last
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["prepare", "score"]


def test_a_teacher_without_its_fake_is_refused_in_one_line(flc, tmp_path):
    flags = ["--pruner", "random", "--recovery", "none", "--distiller", "dmd", "--teacher", "magic", "--out"]
    given = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    code, _, err = flc("compress", *flags, tmp_path / "out", *given)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("flc: error: this teacher leans on"), last
