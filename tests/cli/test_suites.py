"""Suites driven from the command line on the embedded model, with a fake VBench in an environment of its own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flc.data.shapes import draw, sample_spec
from flc.data.source import write_video
from flc.evaluate.vbench_layout import DIMENSIONS
from flc.models.folder import EMBEDDED

FAKE = Path(__file__).parents[1] / "evaluate" / "vbench" / "fake"
PROMPTS = ("a red circle moving left", "a blue square moving up")
I2V = DIMENSIONS["vbench-i2v"]
SMALL = {"evaluate.teacher_steps": 1, "evaluate.batch": 10, "evaluate.clips": 4, "evaluate.reference": 8,
         "evaluate.videos": 2}  # fmt: skip
SIZE = ("--frames", 5, "--height", 32, "--width", 32)


def sets(**more: object) -> list[str]:
    options = SMALL | {f"evaluate.{k}": v for k, v in more.items()}
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a manifest of two prompts with images, and the python of an environment with the fakes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("FAKE_VBENCH_FAILS", raising=False)
    lines = []
    for index, prompt in enumerate(PROMPTS):
        frame = draw(sample_spec(np.random.default_rng(index), prompt), 2, 48, 48)[0]
        Image.fromarray((frame * 255).round().astype(np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"prompt": prompt, "image": f"{index}.png", "seed": 100 * index}))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return tmp_path


@pytest.fixture
def evaluate(flc, place):
    """`flc evaluate` of the embedded model alone: (exit code, stdout, stderr, metrics.json)."""

    def run(*arguments: object, suite: str = "vbench-i2v"):
        command = ("--pipeline", EMBEDDED, "--out", "run", "--suite", suite, "--manifest", "prompts.jsonl")
        code, out, err = flc("evaluate", *command, *SIZE, *arguments)
        metrics = place / "run" / "metrics.json"
        return code, out, err, json.loads(metrics.read_text()) if metrics.exists() else None

    return run


def test_vbench_from_videos_to_the_table(evaluate, place):
    code, out, err, metrics = evaluate(*sets(vbench_python="python"))
    assert code == 0, err
    assert "VBench, suite vbench-i2v: 10 clips" in out and {"i2v", "subject"} <= {*out.split()}
    [row] = metrics["rows"]
    # of the five videos 1, .99, .98, .97 and .96, and three that move
    assert row["average"] == pytest.approx((6 * 0.98 + 0.6) / 7) and set(row["scores"]) == set(I2V)
    assert metrics["suite"] == "vbench-i2v" and row["parameters"] > 2e6 and row["seconds"] > 0
    assert [p["seed"] for p in metrics["prompts"]] == [*range(5), *range(100, 105)], "the manifest's"
    assert all(p["given"] for p in metrics["prompts"])
    names = sorted(p.name for p in (place / "run" / "vbench-i2v" / "pipeline" / "videos").iterdir())
    assert names == sorted(f"{p}-{i}.mp4" for p in PROMPTS for i in range(5))
    assert len(list((place / "run" / "evaluate" / "videos" / "pipeline").glob("*.mp4"))) == 2, "for the report"


def test_without_vbench_a_message_and_the_shapes_suite_then_results_from_elsewhere(evaluate, place):
    code, _, err, metrics = evaluate(*sets())
    assert code == 0, err
    said = " ".join(err.split())
    assert "evaluate.vbench_python is not set" in said and "pip install torch torchvision vbench" in said
    assert metrics["suite"] == "shapes" and metrics["instead_of"] == "vbench-i2v"
    assert metrics["rows"][0]["scores"]["sharpness"] is not None and metrics["clips"] == 4
    row = place / "run" / "vbench-i2v" / "pipeline"
    before = {p: p.stat().st_mtime_ns for p in row.rglob("*.mp4")}
    assert len(before) == 10

    (row / "results").mkdir(exist_ok=True)  # as if VBench had run on another machine
    for dimension in I2V:
        text = json.dumps({dimension: [0.5, [{"video_path": p.name, "video_results": 0.5} for p in before]]})
        (row / "results" / f"results_2026_{dimension}_eval_results.json").write_text(text)
    code, out, err, metrics = evaluate("--resume", *sets())
    assert code == 0, err
    assert metrics["suite"] == "vbench-i2v" and metrics["rows"][0]["average"] == 0.5 and "VBench" in out
    assert {p: p.stat().st_mtime_ns for p in row.rglob("*.mp4")} == before


def test_without_any_weights_a_message_and_the_shapes_suite(evaluate, monkeypatch):
    monkeypatch.setenv("FAKE_VBENCH_FAILS", " ".join(I2V))
    code, _, err, metrics = evaluate(*sets(vbench_python="python"))
    assert code == 0 and metrics["suite"] == "shapes", err
    assert "VBENCH_CACHE_DIR" in err and "Measured with the shapes suite instead" in " ".join(err.split())


def test_without_some_weights_the_table_is_finished_says_why_and_only_they_are_asked_for_again(
    evaluate, place, monkeypatch
):
    monkeypatch.setenv("FAKE_VBENCH_FAILS", "i2v_subject dynamic_degree")
    code, out, err, metrics = evaluate(*sets(vbench_python="python"))
    assert code == 1 and metrics["suite"] == "vbench-i2v", err
    said = " ".join(err.split())
    assert "VBench did not measure pipeline's i2v_subject (OSError: HTTP Error 403: no weights of i2v_subject)" in said
    assert "VBENCH_CACHE_DIR" in said and "flc: error: pipeline has no average" in said
    [row] = metrics["rows"]
    assert row["average"] is None and row["scores"]["i2v_subject"] is None and row["scores"]["subject_consistency"]
    assert all(row["notes"][d].endswith(f"no weights of {d}") for d in ("i2v_subject", "dynamic_degree"))
    assert "n/a" in out
    results = place / "run" / "vbench-i2v" / "pipeline" / "results"
    before = {p: p.stat().st_mtime_ns for p in results.glob("*_eval_results.json")}
    assert len(before) == len(I2V) - 2
    monkeypatch.delenv("FAKE_VBENCH_FAILS")
    code, _, err, metrics = evaluate("--resume", *sets(vbench_python="python"))
    assert code == 0 and metrics["suite"] == "vbench-i2v", err
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(list(results.glob("*_eval_results.json"))) == 7


def test_the_network_leaves_the_device_to_vbench(evaluate, monkeypatch):
    """Seen by what it is moved to, because there is one device here."""
    from diffusers import WanTransformer3DModel

    from flc.evaluate import vbench

    moves, to, run = [], WanTransformer3DModel.to, vbench.run

    def moved(self, *places, **options):
        moves.append(places)
        return to(self, *places, **options)

    def measured(*arguments):
        moves.append("VBench")
        return run(*arguments)

    monkeypatch.setattr(WanTransformer3DModel, "to", moved)
    monkeypatch.setattr(vbench, "run", measured)
    assert evaluate(*sets(vbench_python="python"))[0] == 0
    at = moves.index("VBench")
    assert moves[at - 1] == ("cpu",) and moves[at + 1] == (torch.device("cpu"),), "away, and back to where it was"


def test_a_table_that_was_cut_off_while_it_was_written_is_gone_on_with(evaluate, monkeypatch):
    """As it may be by LPIPS over all videos, which comes last."""
    from flc.run import vbench

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vbench, "document", cut)
        assert evaluate(*sets(vbench_python="python"))[0] == 130
    code, _, err, metrics = evaluate("--resume", *sets(vbench_python="python"))
    assert code == 0 and metrics["rows"][0]["average"], err


def test_a_suite_that_reads_no_clips_of_the_users_does_not_ask_for_more(flc, place):
    (place / "clips").mkdir()
    for index in range(10):
        write_video(place / "clips" / f"{index}.mp4", np.zeros((5, 32, 32, 3), np.float32))
    lines = [json.dumps({"file": f"{i}.mp4", "caption": "a cat"}) for i in range(10)]
    (place / "clips" / "captions.jsonl").write_text("\n".join(lines))
    command = ("compress", "--data", "clips", "--out", "run", *SIZE, "--dry-run", "--set", "prepare.clips=10", *sets())
    suite = ("--set", "evaluate.suite=vbench-i2v", "--set", "evaluate.manifest=prompts.jsonl")
    for more, asks in ((suite, False), ((), True)):
        code, _, err = flc(*command, *more)
        assert code == 0 and ("the table asks for" in " ".join(err.split())) == asks, err


def test_another_model_without_vbench_stops_with_one_line(evaluate, place, flc):
    """Our metrics say nothing about clips that are not drawn ones."""
    shutil.copytree(EMBEDDED, place / "model")
    command = ("--pipeline", "model", "--out", "run", "--suite", "vbench", "--manifest", "captions.jsonl", *SIZE)
    (place / "captions.jsonl").write_text('{"prompt": "a cat"}')
    code, _, err = flc("evaluate", *command, *sets())
    assert code == 2 and not (place / "run" / "metrics.json").exists()
    [line] = [line for line in err.splitlines() if line.startswith("flc: error: ")]
    assert "evaluate.vbench_python is not set" in line and "run with --resume" in line
    assert len(list((place / "run" / "vbench").rglob("a cat-?.mp4"))) == 5


def test_a_manifest_drives_the_shapes_suite_too(evaluate, place):
    code, _, err, metrics = evaluate(*sets(seeds=3), suite="shapes")
    assert code == 0, err
    assert [p["caption"] for p in metrics["prompts"]] == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert [p["seed"] for p in metrics["prompts"]] == [0, 1, 2, 100, 101, 102]
    assert metrics["rows"][0]["scores"]["first_frame_fidelity"] is not None
    assert not (place / "run" / "vbench-i2v").exists()


@pytest.mark.slow
def test_a_whole_run_with_vbench_and_lpips_then_with_our_metrics(flc, place):
    pytest.importorskip("lpips")
    short = {"prepare.clips": 16, "pruner.samples": 8, "recover.iterations": 2, "recover.batch": 4,
             "distill.iterations": 2, "distill.batch": 4, "distill.check_every": 0, "distiller.fake_warmup": 1,
             "evaluate.rows": "teacher-many,student", "evaluate.lpips": "random",
             "evaluate.suite": "vbench-i2v", "evaluate.manifest": "prompts.jsonl"}  # fmt: skip
    arguments = [part for k, v in short.items() for part in ("--set", f"{k}={v}")]
    code, out, err = flc("compress", "--out", "run", *SIZE, *sets(vbench_python="python"), *arguments)
    assert code == 0, err
    label = "LPIPS to teacher-many (random backbone, lower is better)"
    metrics = json.loads(Path("run/metrics.json").read_text())
    [pair] = metrics["pairs"]
    assert metrics["suite"] == "vbench-i2v" and len(metrics["rows"]) == 2
    assert pair["label"] == label and pair["value"] > 0 and pair["clips"] == 10
    card, page = Path("run/pipeline/README.md").read_text(), Path("run/report.html").read_text()
    for text in (card, page):
        assert label in text and "i2v" in text and f"{pair['value']:.3f}" in text
    assert "VBench (suite `vbench-i2v`)" in card and "diversity" not in card
    assert " ".join(out.split()).count("random") >= 1

    teachers = {p: p.stat().st_mtime_ns for p in Path("run/vbench-i2v/teacher-many").rglob("*.mp4")}
    code, _, err = flc("evaluate", "--out", "run", "--suite", "shapes")
    assert code == 0, err
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["suite"] == "shapes" and metrics["clips"] == 4 and "instead_of" not in metrics
    assert metrics["pairs"][0]["label"] == label and metrics["pairs"][0]["value"] > 0
    assert {p: p.stat().st_mtime_ns for p in teachers} == teachers
