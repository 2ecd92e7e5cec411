"""What a machine, a launcher or an engine does not allow: one line before the first stage, exit code 2."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch

from flc.errors import UserError
from flc.recipe import resolve
from flc.run.compress import alone_in_parts, completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.objectives import check_objectives
from flc.run.stages import STAGES
from flc.train.launch import Ranks, check_gpus

pytestmark = pytest.mark.usefixtures("place")

DMD2_LORA = {"name": "dmd2", "fake": "lora"}


# -- what does not go together ---------------------------------------------------------------------------------


def test_a_teacher_that_needs_another_distiller_is_refused_before_the_first_stage(refused, place):
    line = refused("compress", "--out", "run", "--teacher", "magic")
    assert "leans on the fake's low-rank branch" in line and "choose another --teacher" in line


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"recovery": {"matrices": 0.01}}, "AdamW only: set the options named `matrices` to 0"),
        ({"recovery": "icmd"}, "--recovery icmd trains with deepspeed under --zero 3 only, not under 2"),
        ({"recovery": "icmd", "zero": 3}, ""),
        (
            {"distiller": DMD2_LORA, "zero": 3},
            "--distiller dmd2 trains a LoRA on a network that gradients pass through",
        ),
        ({"distiller": DMD2_LORA, "zero": 2}, ""),
        ({"distiller": DMD2_LORA | {"gan": 0}, "zero": 3}, ""),
        ({}, ""),
    ],
    ids=["muon", "icmd", "icmd under 3", "dmd2's LoRA under 3", "and under 2", "and without a GAN", "flagship"],
)
def test_what_deepspeed_cannot_train_is_refused_before_the_first_stage(place, values, says):
    job = Job(completed(resolve({"engine": "deepspeed", **values}, {}, {})), place / "run", Console(quiet=True))
    with pytest.raises(UserError, match=re.escape(says)) if says else contextlib.nullcontext():
        check_objectives(job, STAGES)


@pytest.mark.parametrize(
    ("name", "batch", "world", "says"),
    [("codmd", 16, 16, "takes 1 at once"), ("codmd", 48, 16, ""), ("codmd", 16, 1, ""), ("dmd", 16, 16, "")],
)
def test_a_loss_that_compares_clips_says_where_a_rank_has_too_few(place, name, batch, world, says):
    recipe = completed(resolve({"engine": "deepspeed", "distiller": name, "distill": {"batch": batch}}, {}, {}))
    job = Job(recipe, place / "run", Console(quiet=True), Ranks(world=world))
    said = alone_in_parts(job, STAGES)
    assert [says in text for text in said] == [True] * bool(says), said
    assert alone_in_parts(job, ["recover"]) == []


@pytest.mark.parametrize(
    ("device", "local", "says"),
    [
        ("cuda:1", 0, "--device cuda:1 is one GPU, and 4 processes were started: give --device cuda"),
        ("cuda", 3, "4 processes or more were started on this machine, which has 2 GPUs: give --nproc-per-node 2"),
        ("cuda", 1, ""),
        ("cpu", 3, ""),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(monkeypatch, device, local, says):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=re.escape(says)) if says else contextlib.nullcontext():
        check_gpus(4, local, device)


# -- devices and processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--engine", "deepspeed"], ["--engine", "deepspeed", "--dry-run"]])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_a_gpu(refused, unloaded, monkeypatch, device, more):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("compress", "--out", "run", "--device", device, *more)
    assert f"--device {device}: torch sees no GPU" in line and "--device cpu" in line


def test_a_gpu_that_is_not_there(refused, unloaded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "this machine has 2 GPUs" in refused("compress", "--out", "run", "--device", "cuda:2")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_launchers_words_that_are_no_numbers(refused, unloaded, monkeypatch, name):
    monkeypatch.setenv(name, "two")
    assert f"{name}=two in the environment is no number" in refused("compress", "--out", "run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"RANK": "3", "WORLD_SIZE": "1"}, "RANK=3 in the environment is beyond WORLD_SIZE=1"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "WORLD_SIZE is in the environment and MASTER_ADDR is not"),
    ],
    ids=["rank", "address"],
)
def test_half_a_launchers_words(refused, unloaded, monkeypatch, words, says):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    assert says in refused("compress", "--out", "run", "--engine", "deepspeed")


@pytest.mark.parametrize("device", ["hpu", "mkldnn"])
def test_devices_that_torch_names_and_has_not(refused, unloaded, device):
    assert f"--device {device}: torch sees none" in refused("compress", "--out", "run", "--device", device)


def test_several_processes_with_the_plain_engine(refused, unloaded, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused("compress", "--out", "run", "--engine", "plain")
    assert "2 processes" in line and "--engine deepspeed" in line


@pytest.mark.parametrize("name", ["recover", "distill"])
def test_a_batch_that_does_not_divide_over_the_ranks(place, unloaded, name):
    recipe = resolve(
        {"engine": "deepspeed"}, {}, {"recover": {"batch": 6}, "distill": {"batch": 6}, name: {"batch": 7}}
    )
    job = Job(completed(recipe), place / "run", Console(quiet=True), Ranks(world=3))
    with pytest.raises(UserError, match=rf"{name}.batch=7 does not divide over 3 ranks: --set {name}.batch=6"):
        job.check(list(STAGES))


def test_float16_is_refused_where_something_is_trained_only(place, monkeypatch):
    monkeypatch.setattr("flc.models.wan.WanAdapter.load", lambda *a: (_ for _ in ()).throw(KeyError("loaded")))
    job = Job(completed(resolve({"dtype": "float16"}, {}, {})), place / "run", Console(quiet=True))
    with pytest.raises(KeyError, match="loaded"):
        job.check(["evaluate"])
    with pytest.raises(UserError, match="float16"):
        job.check(["distill"])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0"), MemoryError()]
)
def test_memory_that_runs_out_is_one_line_with_what_takes_less(flc, place, monkeypatch, error):
    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("flc.run.compress.compress", full)
    code, _, err = flc("compress", "--out", "run")
    said = "CUDA out of memory" if str(error) else "no memory left"
    assert code == 2 and err.startswith(f"flc: error: {said}: take fewer clips at once (recover.accumulate,")
    assert err.count("\n") == 1 and "--dry-run counts" in err
