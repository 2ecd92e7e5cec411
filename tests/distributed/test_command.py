"""`flc` under torchrun on two ranks: the same student as one process makes, a dry run, and VBench's videos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.cells import Scale
from benchmarks.common import ROOT
from flc.evaluate.vbench_layout import SEEDS
from flc.models.folder import EMBEDDED
from tests.cli.small import ENVIRONMENT, command

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

#: One row of the table; AdamW for all, as deepspeed has it (the embedded model's presets have Muon, too), and averages
#: to hand on (which they do without).
TABLE = ("--set", 'evaluate.rows=["student"]', "--set", "recovery.matrices=0", "--set", "distiller.matrices=0",
         "--set", "distiller.fake_matrices=0", "--set", "recovery.ema=0.9", "--set", "distiller.ema=0.9")  # fmt: skip
RANKS = ("--engine", "deepspeed", "--zero", "2")
OFFLOADED = ("--engine", "deepspeed", "--zero", "3", "--offload")


def launched(program: list[str]) -> list[str]:
    """`python -m flc ...` under torchrun, with all tensors in shards where the stage of ZeRO has any."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert program[1:3] == ["-m", "flc"]
    return [*torchrun, "-m", "tests.distributed.sharded", *program[3:]]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    env = ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    run(command(out, *TABLE))
    return out


@pytest.fixture(scope="module", params=[RANKS, OFFLOADED], ids=["zero2", "zero3, offload"])
def ranks(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "out"
    return out, run(launched(command(out, *TABLE, *request.param)))


def weights(out: Path) -> dict:
    return load_file(out / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_two_ranks_make_the_student_of_one_process(alone, ranks):
    out, _ = ranks
    found, expected = (json.loads((o / "score" / "plan.json").read_text()) for o in (out, alone))
    for same in ("kept", "block_evaluations", "share"):
        assert found[same] == expected[same]
    for stack, scores in expected["scores"].items():  # ranks share a batch's clips: float32 sums of another size
        assert found["scores"][stack] == pytest.approx(scores, rel=1e-5)
    parts = [sorted(p.name for p in (o / "prepare").glob("*.safetensors")) for o in (out, alone)]
    assert parts[0] == parts[1] and len(parts[0]) > 1, "both ranks encode"
    for part in parts[0]:
        mine, theirs = (load_file(o / "prepare" / part) for o in (out, alone))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    expected, found = weights(alone), weights(out)
    assert expected.keys() == found.keys()
    start = load_file(alone / "prune" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in expected.items():
        moved = (value - start[name]).abs().max()
        # Adam divides by the gradient's size, so that where it is all rounding its sign is, too
        assert (found[name] - value).abs().mean() <= 0.02 * moved, name


def test_ranks_leave_the_same_files(alone, ranks):
    def files(out: Path) -> set[str]:
        return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}

    assert files(ranks[0]) == files(alone)


def test_only_the_leader_speaks(ranks):
    _, done = ranks
    assert done.stdout.count("\nstudent ") == 1
    ended = [line for line in done.stderr.splitlines() if line.startswith("encode clips: ") and " in 0:" in line]
    assert len(ended) == 1, "the leader alone says how far work is"


def test_ranks_hand_on_what_a_collapsed_recovery_began_with(tmp_path):
    """Under ZeRO-3 the best weights are collected from all of them."""
    broken = ("--set", "recovery.lr=0.1", "--set", "recovery.warmup=0", "--set", "pruner.after=0", "--until", "recover")
    done = run(launched(command(tmp_path / "out", *TABLE, *OFFLOADED, *broken)))
    assert done.stderr.count("recover collapsed; the weights of iteration 0, its best, are handed on") == 1
    found, own = (load_file(f / "transformer" / "diffusion_pytorch_model.safetensors")
                  for f in (tmp_path / "out" / "recover", EMBEDDED))  # fmt: skip
    assert found.keys() == own.keys() and all(torch.equal(found[n], own[n]) for n in own)


def test_a_dry_run_of_ranks_plans_once_and_leaves_nothing(tmp_path):
    before = set(os.listdir("/tmp"))
    done = run(launched(command(tmp_path / "out", *TABLE, *RANKS, "--dry-run")))
    assert done.stdout.count("blocks: keep [") == 1
    assert (
        list(tmp_path.iterdir()) == [] and {n for n in set(os.listdir("/tmp")) - before if n.startswith("tmp")} == set()
    )


def test_ranks_share_the_videos_of_vbench(tmp_path):
    """Each its own, the same as one process samples; without VBench the leader measures with the shapes suite."""
    prompts = ("a red circle moving left", "a blue square moving up", "a green circle moving down")
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in prompts))
    short = {"evaluate.teacher_steps": 2, "evaluate.batch": 1, "evaluate.clips": 4, "evaluate.reference": 8}
    sets = [part for key, value in short.items() for part in ("--set", f"{key}={value}")]
    given = ["--pipeline", str(EMBEDDED), "--suite", "vbench", "--manifest", str(tmp_path / "prompts.jsonl"), *sets]
    program = [sys.executable, "-m", "flc", "evaluate", *given, "--frames", "9", "--height", "32", "--width", "32"]
    run([*program, "--out", str(tmp_path / "one")])
    done = run(launched([*program, "--out", str(tmp_path / "two"), *RANKS]))
    assert done.stderr.count("is not set") == 1 and (tmp_path / "two" / "metrics.json").exists()
    one, two = (tmp_path / out / "vbench" / "pipeline" for out in ("one", "two"))
    made = {p.name: p.read_bytes() for p in (one / "videos").iterdir()}
    assert len(made) == len(prompts) * SEEDS
    assert {p.name: p.read_bytes() for p in (two / "videos").iterdir()} == made
    assert json.loads((one / "row.json").read_text())["timed"] == len(made)
    assert json.loads((two / "row.json").read_text())["timed"] == -(-len(made) // 2), "the leader's share"


FULL_SIZES = ("wan-1.3b", "wan-14b", "wan-i2v-14b", "wan-ti2v-5b", "hunyuan-13b", "hunyuan-i2v-13b")


@pytest.mark.parametrize("launcher", sorted({tuple(Scale(name).command()) for name in FULL_SIZES}), ids=" ".join)
def test_the_full_sizes_launcher_starts_flc(tmp_path, launcher):
    """On this machine: there is no file of hosts in the folder, and deepspeed takes the one it runs on."""
    deepspeed, *given = launcher
    arguments = ["--num_gpus", "1", *given, "plugins", "--json"]
    done = subprocess.run(
        [Path(sys.executable).with_name(deepspeed), *arguments], capture_output=True, text=True, cwd=tmp_path,
        env=ENVIRONMENT | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and '"elbo"' in done.stdout, done.stderr[-2000:]


def test_a_mistake_is_said_once_and_ends_the_launchers_summary(tmp_path):
    done = subprocess.run(launched(command(tmp_path / "out", *RANKS, "--keep", "5")), capture_output=True, text=True,
                          env=ENVIRONMENT, cwd=ROOT)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "recipe.keep='5'" in line]
    assert len(said) == 2 and said[0].startswith("flc: error: recipe.keep='5'"), done.stderr
    assert said[1].strip() == f"traceback : {said[0]}", "under the root cause"
    codes = re.findall(r"exitcode +: (-?\d+)", done.stderr)
    assert set(codes) == {"2"}, "no rank ends with another code; the launcher lists those that it has not ended itself"
