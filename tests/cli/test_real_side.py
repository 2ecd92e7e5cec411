"""What stage III's teacher takes for the unpruned network: the model's own, or the one that stage II hands on."""

from __future__ import annotations

import json

import pytest
import torch

from flc.api import Query
from flc.models.folder import EMBEDDED
from flc.run.folders import DONE, read_mark
from flc.run.job import Job
from flc.train.nets import Teacher
from tests.cli.small import SMALL

SETS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
UNPRUNED, PRUNED = Query("unpruned"), Query("pruned")


@pytest.fixture
def asked(monkeypatch):
    """Every query of the teacher of a run: (x, t, cond, velocities)."""
    out, evaluate = [], Teacher.evaluate

    def kept(self, x, t, cond):
        out.append((x, t, cond, evaluate(self, x, t, cond)))
        return out[-1][-1]

    monkeypatch.setattr(Teacher, "evaluate", kept)
    return out


@pytest.fixture
def velocities(adapter, asked):
    """Of the first query, by the transformer of a folder on its own, whole or of some of its blocks."""
    from diffusers import WanTransformer3DModel

    from flc.models.view import view

    @torch.no_grad()
    def of(folder, kept=None):
        module = adapter.prepare(WanTransformer3DModel.from_pretrained(folder / "transformer").eval())
        with view(module, kept):
            return adapter.velocity(module, module, *asked[0][:3])

    return of


@pytest.fixture
def ran(flc, place):
    """`ran(...)`: stage III of a run with these flags; the folder, and what was said."""

    def run(*flags):
        again = ("--resume",) if (place / "run").exists() else ()
        code, _, err = flc("compress", "--out", "run", *again, "--until", "distill", *SETS, *flags)
        assert code == 0, err
        return place / "run", err

    return run


def test_the_teacher_is_asked_of_the_original_and_of_the_recovered_network_where_that_is_said(ran, asked, velocities):
    """Bit for bit, by each network alone: with beta1 = 1 each is asked once, in a batch of the same size."""
    out, _ = ran()
    kept = json.loads((out / "score" / "plan.json").read_text())["kept"]
    original, recovered, pruned = velocities(EMBEDDED), velocities(out / "recover"), velocities(out / "recover", kept)
    assert not torch.allclose(original, recovered, atol=1e-2), "stage II has moved it"
    assert torch.equal(asked[0][3][UNPRUNED], original) and torch.equal(asked[0][3][PRUNED], pruned)
    assert read_mark(out / "distill" / DONE)["options"]["real"] == "original"
    asked.clear()
    out, _ = ran("--set", "distill.real=recovered")
    assert torch.equal(asked[0][3][UNPRUNED], recovered) and torch.equal(asked[0][3][PRUNED], pruned)
    assert read_mark(out / "distill" / DONE)["options"]["real"] == "recovered"


def test_a_shared_anchor_makes_the_recovered_network_the_unpruned_one(ran, asked, velocities):
    """The paper's: Eq 6 and Eq 9 have one network."""
    out, _ = ran("--set", "recovery.anchor=shared")
    assert torch.equal(asked[0][3][UNPRUNED], velocities(out / "recover"))


def test_an_original_that_nobody_asks_for_leaves_the_machine_to_those_that_train(ran, monkeypatch):
    idle, parked = [], Job.parked
    monkeypatch.setattr(Job, "parked", lambda job, still: idle.append(still) or parked(job, still))
    _, err = ran("--set", "teacher.beta2=0", "--set", "teacher.spread2=0", "--set", "distill.real=original")
    assert idle == [True]
    assert "distill.real=original has no effect: --teacher well-guided asks for no unpruned network" in err
    ran("--set", "teacher.beta2=0.25", "--set", "teacher.spread2=0")
    assert idle == [True, False]


def test_a_teacher_that_leans_on_the_unpruned_network_is_asked_of_the_recovered_one(refused, place, flc):
    """The low-rank branch lies on those weights, and on no others."""
    leaning = ("--distiller", "magic", "--teacher", "magic", "--set", "teacher.network=unpruned")
    line = refused("compress", "--out", "run", *leaning, "--set", "distill.real=original")
    assert "or --set distill.real=recovered" in line
    code, _, err = flc("compress", "--out", "run", *leaning, "--until", "distill", *SETS)
    assert code == 0, err
    assert read_mark(place / "run" / "distill" / DONE)["options"]["real"] == "recovered"
