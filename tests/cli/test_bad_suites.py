"""Bad input of a suite: one line on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import pytest

from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.usefixtures("place")

GOOD = '{"prompt": "a red circle moving left"}'
SUITES = {
    "unknown suite": (
        ["evaluate.suite=vbench-t2v"],
        "",
        ["recipe.evaluate.suite", "'shapes', 'vbench' or 'vbench-i2v'"],
    ),
    "suite without its files": (["evaluate.suite=vbench-i2v"], "", ["needs VBench's prompts", "evaluate.vbench_data"]),
    "suite whose files are not there": (
        ["evaluate.suite=vbench-i2v", "evaluate.vbench_data=VBench"],
        "",
        [
            "VBench/vbench2_i2v_full_info.json cannot be read (No such file",
            "evaluate.vbench_data=VBench/vbench2_beta_i2v",
        ],
    ),
    "environment that is not there": (
        ["evaluate.suite=vbench", "evaluate.vbench_python=env/bin/python"],
        GOOD,
        ["evaluate.vbench_python=env/bin/python does not exist", "pip install torch torchvision vbench"],
    ),
    "no manifest": (["evaluate.manifest=none.jsonl"], "", ["--manifest none.jsonl cannot be read: No such file"]),
    "missing image": ([], '{"prompt": "a", "image": "a.png"}', ["prompts.jsonl line 1: a.png does not exist"]),
    "manifest not json": ([], f"{GOOD}\n{{", ["prompts.jsonl line 2 is not JSON"]),
    "missing prompt": ([], '{"image": "a.png"}', ["prompts.jsonl line 1 has no prompt"]),
    "caption that cannot be judged": ([], '{"prompt": "a cat"}', ["prompts.jsonl line 1: caption 'a cat'", "shapes"]),
    "same prompt twice": (["evaluate.suite=vbench"], f"{GOOD}\n{GOOD}", ["line 2 repeats the prompt of", "line 1"]),
    "no weights for LPIPS": (["evaluate.lpips=nowhere"], "", ["evaluate.lpips=nowhere holds no alexnet", "random"]),
    "LPIPS without its rows": (
        ["evaluate.lpips=random", 'evaluate.rows=["student"]'],
        "",
        ["teacher-many with student", "add teacher-many to evaluate.rows"],
    ),
}


@pytest.mark.parametrize("case", SUITES)
def test_suites(refused, unloaded, place, case):
    sets, manifest, expected = SUITES[case]
    if "LPIPS" in case:
        pytest.importorskip("lpips")
    if manifest:
        (place / "prompts.jsonl").write_text(manifest)
        sets = [*sets, "evaluate.manifest=prompts.jsonl"]
    line = refused("compress", "--out", "run", *(part for s in sets for part in ("--set", s)))
    for part in expected:
        assert part in line, line


def test_flags_of_a_suite(refused, unloaded, place):
    arguments = ("evaluate", "--pipeline", EMBEDDED, "--out", "run")
    assert "evaluate.suite='vbnch'" in refused(*arguments, "--suite", "vbnch")
    assert "needs VBench's prompts" in refused(*arguments, "--suite", "vbench")
    assert "--manifest none.jsonl cannot be read" in refused(*arguments, "--manifest", "none.jsonl")


def test_a_pipeline_that_is_measured_alone_is_the_model(refused, unloaded):
    arguments = ("evaluate", "--pipeline", EMBEDDED, "--out", "run", "--model", "nowhere")
    assert "--model has no effect with --pipeline" in refused(*arguments)


def test_clips_too_small_for_lpips(refused, place):
    """The model's own size counts, too: it is known once the model is loaded."""
    pytest.importorskip("lpips")
    sets = ("--set", "evaluate.lpips=random", "--height", 16, "--width", 32)
    assert "evaluate.lpips needs clips of 32 pixels a side" in refused("compress", "--out", "run", *sets)


def test_an_image_to_video_suite_needs_images(refused, place):
    """Whether the model takes any is known once it is loaded."""
    (place / "prompts.jsonl").write_text(GOOD)
    arguments = ("--pipeline", EMBEDDED, "--out", "run", "--suite", "vbench-i2v", "--manifest", "prompts.jsonl")
    assert "prompts.jsonl line 1 has no image, which --suite vbench-i2v needs" in refused("evaluate", *arguments)
