"""Bad input: one line on stderr that says what was wrong, exit code 2, and nothing written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from flc.data.listing import read_listing
from flc.data.source import write_video
from flc.models.folder import EMBEDDED
from flc.recipe import lock_text, resolve
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job

pytestmark = pytest.mark.usefixtures("place")


# -- flags and options -----------------------------------------------------------------------------------------

FLAGS = {
    "keep nothing": (["--keep", "0"], ["keep", "greater than 0"]),
    "keep more than all": (["--keep", "1.5"], ["keep", "less than or equal to 1"]),
    "keep no number": (["--keep", "abc"], ["recipe.keep='abc'", "a valid number"]),
    "keep percent of nothing": (["--keep", "%"], ["recipe.keep='%'", "a valid number"]),
    "keep more than all in percent": (["--keep", "101%"], ["keep", "less than or equal to 1"]),
    "keep nan": (["--keep", "nan"], ["keep"]),
    "no steps": (["--steps", "0"], ["steps", "greater than or equal to 1"]),
    "steps of a half": (["--steps", "2.5"], ["--steps", "integer"]),
    "unknown flag": (["--step", "4"], ["--step", "--steps"]),
    "flag without value": (["--seed"], ["--seed", "requires an argument"]),
    "unknown preset": (["--preset", "fast"], ["preset", "'quick' or 'full'"]),
    "unknown dtype": (["--dtype", "float8"], ["dtype", "'float32', 'bfloat16' or 'float16'"]),
    "unknown engine": (["--engine", "accelerate"], ["engine", "'plain' or 'deepspeed'"]),
    "unknown zero stage": (["--zero", "4"], ["zero", "1, 2 or 3"]),
    "negative guidance": (["--guidance", "-1"], ["guidance", "greater than or equal to 1"]),
    "guidance below none": (["--guidance", "0.5"], ["guidance", "greater than or equal to 1"]),
    "no frames": (["--frames", "0"], ["frames", "greater than or equal to 1"]),
    "unknown pruner": (["--pruner", "unifrom"], ["no pruner named 'unifrom'", "did you mean uniform?"]),
    "unknown recovery": (["--recovery", "bernouli"], ["no recovery named 'bernouli'", "bernoulli"]),
    "unknown distiller": (["--distiller", "xyz"], ["no distiller named 'xyz'", "dmd"]),
    "unknown teacher": (["--teacher", "well_guided"], ["no teacher named 'well_guided'", "well-guided"]),
    "unknown option": (["--set", "pruner.sample=32"], ["unknown option pruner.sample", "did you mean samples?"]),
    "unknown option of a stage": (["--set", "distill.iteration=3"], ["distill.iteration", "did you mean iterations?"]),
    "unknown section": (["--set", "prunner.samples=32"], ["recipe.prunner", "did you mean pruner"]),
    "option of another algorithm": (
        ["--pruner", "uniform", "--set", "pruner.samples=32"],
        ["unknown option pruner.samples", "options are: none"],
    ),
    "set without section": (["--set", "samples=32"], ["--set 'samples=32'", "section.option=value"]),
    "set without value": (["--set", "pruner.samples"], ["--set 'pruner.samples'", "section.option=value"]),
    "set of broken json": (["--set", "distiller.betas=[0,"], ["--set", "not JSON"]),
    "option out of bounds": (["--set", "pruner.samples=1"], ["pruner.samples='1'", "greater than or equal to 2"]),
    "option no number": (["--set", "teacher.beta1=much"], ["teacher.beta1='much'", "number"]),
    "tuple too long": (["--set", "distiller.betas=[0,0.5,1]"], ["distiller.betas", "2 items"]),
    "beta of one": (["--set", "distiller.betas=[0,1]"], ["distiller.betas", "at least 0 and less than 1"]),
    "beta below zero": (["--set", "distiller.betas=[-0.1,0.9]"], ["distiller.betas", "at least 0 and less than 1"]),
    "times in the wrong order": (["--set", "distiller.time_min=0.99"], ["distiller.time_max", "no less than time_min"]),
    "unknown row": (["--set", "evaluate.rows=student,teacher"], ["evaluate.rows.1='teacher'", "'pruned'"]),
    "training in float16": (["--dtype", "float16"], ["--dtype float16 cannot train", "use bfloat16"]),
    "rate without end": (["--set", "distiller.lr=inf"], ["distiller.lr", "finite number"]),
    "spread without end": (["--set", "teacher.spread1=inf"], ["teacher.spread1", "finite number"]),
    "stage out of bounds": (["--set", "distill.batch=0"], ["distill.batch='0'", "greater than or equal to 1"]),
    "section is no section": (["--set", "steps.count=4"], ["steps", "integer"]),
    "device nonsense": (["--device", "toaster"], ["--device 'toaster'", "cpu, cuda"]),
    "device that computes nothing": (["--device", "meta"], ["--device meta"]),
    "until no stage": (["--until", "recovery"], ["--until 'recovery' is none of prepare, score, prune, recover"]),
    "until and a dry run": (["--until", "score", "--dry-run"], ["--until has no effect on a --dry-run"]),
    "missing model": (["--model", "nowhere"], ["--model nowhere does not exist"]),
    "missing data": (["--data", "nowhere"], ["--data nowhere does not exist"]),
    "missing recipe": (["--recipe", "nowhere.yaml"], ["--recipe nowhere.yaml", "No such file"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_and_options(refused, unloaded, case):
    arguments, expected = FLAGS[case]
    line = refused("compress", "--out", "run", *arguments)
    for part in expected:
        assert part in line, line


def test_every_problem_above_is_one_of_the_input(place, flc):
    """The same command without the bad input passes all these checks: it goes on to load the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flc.models.wan.WanAdapter.load", lambda *a: (_ for _ in ()).throw(KeyError("loaded")))
        code, _, err = flc("compress", "--out", "run")
    assert code == 1 and "KeyError: 'loaded'" in err


RECIPES = {
    "not yaml": ("steps: [4\nkeep: 1", ["recipe.yaml", "line 2", "is not YAML"]),
    "not a mapping": ("- steps\n- keep\n", ["recipe.yaml", "is not a mapping"]),
    "empty": ("", ["recipe.yaml", "is not a mapping"]),
    "unknown key": ("stepps: 4\n", ["unknown option recipe.stepps", "did you mean steps"]),
    "unknown key of a stage": ("recover: {batchsize: 4}\n", ["recipe.recover.batchsize", "did you mean batch?"]),
    "wrong type": ("keep: much\n", ["recipe.keep='much'", "number"]),
    "algorithm without a name": ("pruner: [elbo]\n", ["recipe.pruner"]),
    "algorithm whose name is none": ("pruner: {name: [elbo]}\n", ["recipe.pruner.name", "string"]),
    "unknown algorithm": ("pruner: elbow\n", ["no pruner named 'elbow'", "did you mean elbo?"]),
    "unknown option of an algorithm": ("pruner: {name: elbo, size: 3}\n", ["pruner.size", "samples"]),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes(refused, unloaded, place, case):
    text, expected = RECIPES[case]
    (place / "recipe.yaml").write_text(text)
    line = refused("compress", "--out", "run", "--recipe", "recipe.yaml")
    for part in expected:
        assert part in line, line


def test_a_recipe_that_is_not_text(refused, unloaded, place):
    (place / "recipe.yaml").write_bytes(b"\x80\x81\x00")
    assert "recipe.yaml is not" in refused("compress", "--out", "run", "--recipe", "recipe.yaml")


# -- places ----------------------------------------------------------------------------------------------------


def test_a_pipeline_that_is_not_there(refused, unloaded):
    assert refused("evaluate", "--out", "run", "--pipeline", "nowhere").startswith(
        "--pipeline nowhere does not exist: "
    )


@pytest.mark.parametrize("flag", ["--model", "--data"])
@pytest.mark.parametrize("out", ["folder", "folder/run"])
def test_out_or_a_store_in_a_folder_that_the_run_reads(refused, unloaded, place, flag, out):
    (place / "folder").mkdir()
    line = refused("compress", "--out", out, flag, "folder")
    assert f"--out {out} lies in {flag} folder" in line
    line = refused("compress", "--out", "run", "--store", out, flag, "folder")
    assert f"--store {out} lies in {flag} folder, which it would change: give another folder" in line


@pytest.mark.parametrize("flag", ["--model", "--data", "--recipe"])
def test_a_name_that_is_too_long(refused, unloaded, flag):
    assert "File name too long" in refused("compress", "--out", "run", flag, "n" * 300)


def test_an_out_in_which_nothing_may_be_written(refused, monkeypatch):
    def denied(path, text):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("flc.run.compress.make_folder", lambda out: None)
    monkeypatch.setattr("flc.run.compress.held", contextlib.nullcontext)
    monkeypatch.setattr("flc.run.compress.write_text", denied)
    assert "run/recipe.lock.yaml: Permission denied: give another path" in refused("compress", "--out", "run")


def test_sizes_beyond_the_models_positions(refused):
    assert "--height 1040 is beyond this model's 64 positions" in refused("compress", "--out", "run", "--height", 1040)


def test_a_share_of_less_than_one_block(flc, place):
    """Only the pruner knows what it can leave, so that this is said after it."""
    sets = [part for s in ("prepare.clips=2", "pruner.samples=2") for part in ("--set", s)]
    code, _, err = flc("score", "--out", "run", "--keep", "0.05", *sets)
    assert code == 2 and "--keep 0.05 is less than one block, which is 0.1: give that or more" in err
    assert not (place / "run" / "score").exists()


@pytest.mark.parametrize("out", ["taken", "taken/run"])
@pytest.mark.parametrize("command", ["compress", "score", "prune", "report"])
def test_out_at_or_under_a_file(refused, unloaded, place, command, out):
    (place / "taken").write_text("a file")
    line = refused(command, "--out", out)
    assert f"--out {out}" in line and "taken is a file" in line


def test_out_that_cannot_be_made(refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, 10**12))
    assert "--out /proc/flc-run cannot be made" in refused("compress", "--out", "/proc/flc-run")


def test_too_little_disk_space(refused, unloaded, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12 - 10**6, 10**6))
    line = refused("compress", "--out", "run")
    assert "--out run has 0.001 GB of disk" in line and "are needed" in line


def test_a_disk_that_fills_up_during_a_stage(flc, place, monkeypatch):
    """Not bad input, but an error all the same: one line, and no stage that looks done."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flc.run.stages.prepare.encode_parts", full)
    code, _, err = flc("compress", "--out", "run", "--set", "prepare.clips=2")
    [line] = [line for line in err.splitlines() if line.startswith("flc: error: ")]
    assert code == 2 and "no disk space left under run" in line and "--resume" in line
    assert not (place / "run" / "prepare").exists()


@pytest.mark.parametrize("place_of", ["flc.run.compress.write_text", "flc.run.generate.write_video"])
def test_a_disk_that_is_full_outside_the_stages(flc, monkeypatch, place_of):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place_of, full)
    small = ["--steps", 1, "--frames", 5, "--height", 16, "--width", 16]
    generate = ["generate", "tiny-wan", "--prompt", "a cat", *small]
    code, _, err = flc(*(generate if "generate" in place_of else ["compress", "--out", "run"]))
    assert code == 2 and "flc: error: no disk space left" in err.splitlines()[-1], err


@pytest.mark.parametrize(
    ("command", "says"),
    [("prune", "the plan comes from flc score"), ("recover", "the plan comes from flc score"),
     ("distill", "the plan comes from flc score"), ("export", "the plan comes from flc score"),
     ("evaluate", "the plan comes from flc score"), ("report", "the pipeline comes from flc export")],
)  # fmt: skip
def test_a_stage_without_the_one_before(refused, unloaded, command, says):
    assert says in refused(command, "--out", "run")


def test_data_with_a_manifest_that_names_a_missing_video(refused, unloaded, place):
    (place / "clips").mkdir()
    (place / "clips" / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "a cat"}\n')
    line = refused("compress", "--out", "run", "--data", "clips")
    assert "captions.jsonl line 1" in line and "a.mp4 does not exist" in line


@pytest.mark.parametrize("caption", ["null", "[1, 2]", "3"])
def test_captions_that_are_no_text(refused, unloaded, place, caption):
    (place / "clips").mkdir()
    (place / "clips" / "a.mp4").touch()
    (place / "clips" / "captions.jsonl").write_text(f'{{"file": "a.mp4", "caption": {caption}}}\n')
    assert "captions.jsonl line 1: caption" in refused("compress", "--out", "run", "--data", "clips")


def test_captions_after_a_byte_order_mark(place):
    (place / "a.mp4").touch()
    (place / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "a cat"}\n', encoding="utf-8-sig")
    assert read_listing(place).rows == [(place / "a.mp4", "a cat")]


def test_captions_that_are_no_utf_8(refused, unloaded, place):
    (place / "clips").mkdir()
    (place / "clips" / "captions.jsonl").write_bytes('{"file": "a.mp4", "caption": "ein Kätzchen"}'.encode("latin-1"))
    assert "captions.jsonl cannot be read as UTF-8" in refused("compress", "--out", "run", "--data", "clips")


def test_another_preset_than_that_of_a_lock_file(refused, unloaded, place):
    (place / "old.lock.yaml").write_text(lock_text(resolve({}, {}, {})))
    line = refused("compress", "--out", "run", "--recipe", "old.lock.yaml", "--preset", "full")
    assert "old.lock.yaml says quick, and holds the stages' lengths: leave it out" in line


def clips_of(folder: Path, frames: int | None) -> Path:
    """A --data folder of one video, or of one that is none."""
    folder.mkdir()
    (folder / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "a cat"}\n')
    if frames is None:
        (folder / "a.mp4").write_bytes(b"no video")
    else:
        write_video(folder / "a.mp4", np.zeros((frames, 48, 48, 3)))
    return folder


@pytest.mark.parametrize("command", ["compress", "score"])
def test_data_whose_first_video_is_none_or_too_short(refused, place, command):
    clips_of(place / "none", None)
    assert "none/a.mp4 cannot be read as a video" in refused(command, "--out", "run", "--data", "none")
    clips_of(place / "short", 5)
    line = refused(command, "--out", "run", "--data", "short", "--frames", "9")
    assert "1 of 1 clips have fewer than 9 frames at 8 a second: short/a.mp4 (5): leave them out, or give" in line
    assert line.endswith("--frames 5")


def test_data_with_a_later_video_that_is_none_or_too_short(refused, place):
    """By its header, before anything is written; the first one is good."""
    folder = clips_of(place / "clips", 17)
    (folder / "captions.jsonl").write_text(
        "".join(f'{{"file": "{name}.mp4", "caption": "a cat"}}\n' for name in ("a", "a", "b"))
    )
    write_video(folder / "b.mp4", np.zeros((5, 48, 48, 3)))
    line = refused("compress", "--out", "run", "--data", "clips")
    assert "1 of 2 clips have fewer than 17 frames" in line and "clips/b.mp4 (5): leave them out, or give" in line
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes()[:60])
    assert "clips/b.mp4 cannot be read as a video" in refused("compress", "--out", "run", "--data", "clips")


def test_short_clips_are_counted_and_some_named_with_a_size_that_the_model_takes(refused, place):
    """Of eleven frames it takes nine: one more than a multiple of four."""
    folder = clips_of(place / "clips", 17)
    names = {"a": 17, "b": 12, "c": 11, "d": 16, "e": 15}
    lines = [f'{{"file": "{name}.mp4", "caption": "a cat"}}' for name in names]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    for name, frames in names.items():
        write_video(folder / f"{name}.mp4", np.zeros((frames, 48, 48, 3)))
    line = refused("compress", "--out", "run", "--data", "clips")
    assert "4 of 5 clips have fewer than 17 frames at 8 a second: clips/b.mp4 (12), clips/c.mp4 (11)" in line
    assert "clips/d.mp4 (16) and 1 more: leave them out, or give --frames 9" in line


def test_the_clips_that_are_decoded_before_a_run_are_those_that_its_stages_read(place):
    """Training's, and of a table its prompts' and reference's; from a manifest come the prompts, VBench reads none."""
    clips_of(place / "clips", 5)
    lines = "".join('{"file": "a.mp4", "caption": "a cat"}\n' for _ in range(30))
    (place / "clips" / "captions.jsonl").write_text(lines)

    def read(stages: list[str], **evaluate: object) -> list[int]:
        options = {"clips": 8, "seeds": 2, "reference": 8, **evaluate}
        recipe = completed(resolve({"data": "clips", "prepare": {"clips": 10}, "evaluate": options}, {}, {}))
        return Job(recipe, place / "run", Console(quiet=True)).rows_read(stages)

    assert read(["score"]) == read(["recover"]) == read(["distill"]) == [*range(10)]
    assert read(["score", "distill", "evaluate"]) == [*range(22)]
    assert read(["evaluate"]) == [*range(10, 22)]
    assert read(["evaluate"], manifest="prompts.jsonl") == [*range(14, 22)]
    assert read(["export"]) == read(["evaluate"], suite="vbench", manifest="prompts.jsonl") == []


# -- sizes: these need the model -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [("--height", 40, "--height 40 must be a positive multiple of 16"),
     ("--width", 8, "--width 8 must be a positive multiple of 16"),
     ("--frames", 16, "--frames 16 must be one more than a multiple of 4"),
     ("--frames", 1, "--frames 1: the metrics need 3 frames or more")],
)  # fmt: skip
def test_sizes_that_do_not_fit_the_model(refused, flag, value, says):
    assert says in refused("compress", "--out", "run", flag, value)


# -- the rest --------------------------------------------------------------------------------------------------


def test_unknown_commands_and_algorithms(refused):
    assert "No such command 'compres'" in refused("compres")
    assert "no algorithm named 'elboo': did you mean elbo?" in refused("show", "elboo")


def test_debug_adds_the_traceback(flc, place):
    code, out, err = flc("compress", "--out", "run", "--keep", "0", "--debug")
    assert code == 2 and out == ""
    assert err.startswith("Traceback (most recent call last):") and "UserError" in err
    assert err.splitlines()[-1].startswith("flc: error: recipe.keep")
    assert not (place / "run").exists()


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--height", "40"]], ids=["before loading", "after loading"])
def test_in_a_process_of_its_own(place, arguments):
    """With nothing patched: also what the libraries underneath print while a model is loaded stays away."""
    command = [sys.executable, "-m", "flc", "compress", "--out", "run", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2 and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and ran.stderr.startswith("flc: error: "), ran.stderr
    assert not (place / "run").exists()


def test_one_step_of_a_schedule_of_several_is_refused(refused, place):
    shutil.copytree(EMBEDDED, place / "model")
    notes = {"size": [17, 48, 48], "steps": 4, "guidance": 1.0, "sigmas": [1.0, 0.9, 0.75, 0.5, 0.0]}
    (place / "model" / "flc.json").write_text(json.dumps(notes))
    line = refused("generate", "model", "--prompt", "a cat", "--steps", "1")
    assert "--steps 1: the schedule of model has 4 steps and makes nothing of one" in line


def test_configs_alone_are_enough_to_count_and_broken_ones_are_one_line(flc, refused, place):
    shutil.copytree(EMBEDDED, place / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    code, out, err = flc("compress", "--model", "configs", "--dry-run", "--ranks", "1", "--preset", "full")
    assert code == 0 and "7 of 10 blocks stay" in out, err
    assert "holds no *.safetensors weights" in refused("compress", "--model", "configs", "--dry-run")
    (place / "configs" / "transformer" / "config.json").write_text(
        json.dumps({"_class_name": "WanTransformer3DModel", "num_layers": "many"})
    )
    line = refused("compress", "--model", "configs", "--dry-run", "--ranks", "1")
    assert "configs/transformer/config.json: num_layers='many' is no int" in line


def test_offload_is_of_deepspeed_under_zero_3(refused, place):
    assert "--offload has no effect with --engine plain" in refused("compress", "--offload", "--out", "run")
    line = refused("compress", "--offload", "--engine", "deepspeed", "--dry-run", "--ranks", "2")
    assert "--offload goes with --zero 3, not with 2" in line


def test_ranks_count_and_run_nothing(flc, refused, place):
    assert "--ranks counts" in refused("compress", "--ranks", "16", "--out", "run")
    assert "--engine plain is one process" in refused("compress", "--ranks", "16", "--out", "run", "--dry-run")
    assert "Invalid value for '--ranks'" in flc("compress", "--ranks", "0", "--dry-run")[2]
    many = ("compress", "--engine", "deepspeed", "--dry-run", "--out", "run", "--set", "distill.batch=20")
    assert "does not divide over 16 ranks: --set" in refused(*many, "--ranks", "16")
    parted = refused("compress", "--set", "recover.batch=6", "--set", "recover.accumulate=4", "--out", "run")
    assert "recover.batch=6 does not divide over 1 rank, in 4 parts each: --set recover.batch=4" in parted
    assert not Path("run").exists()


def test_a_dry_run_that_is_stopped_leaves_no_scratch_folder(flc, place, monkeypatch):
    made: list[Path] = []

    def stopped(job: object, scratch: Path) -> None:
        made.append(scratch)
        assert scratch.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("flc.run.estimate.dry_run", stopped)
    code, _, err = flc("compress", "--out", "run", "--dry-run")
    assert code == 143 and len(err.splitlines()) == 1
    assert len(made) == 1 and not made[0].exists()
