"""Stage II in a run: what is said of how often the pruned network is trained, and what a collapse hands on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flc.models.folder import EMBEDDED
from flc.run.folders import DONE
from flc.train import loop
from tests.cli.small import SMALL

SHORT = SMALL | {"pruner.after": 0, "recover.check_every": 2, "recovery.matrices": 0.0}
BROKEN = SHORT | {"recovery.lr": 0.1, "recovery.warmup": 0}
RARELY = {"recovery.draw": "block", "recovery.p": 0.1}


def sets(values: dict) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def facts(folder: Path) -> dict:
    return json.loads((folder / DONE).read_text())


def words(text: str) -> str:
    return " ".join(text.split())


def weights(folder):
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def recovered(flc, place):
    """`recovered(name, values)`: a run until stage II; its folder, and what was said."""

    def run(name, values, *flags, code=0):
        found, _, err = flc("compress", "--out", name, "--until", "recover", *sets(values), *flags)
        assert found == code, err
        return place / name, words(err)

    return run


@pytest.mark.parametrize(("options", "few"), [({}, False), (RARELY, True)], ids=["the preset's", "rarely"])
def test_a_run_and_its_dry_run_warn_where_the_pruned_network_is_hardly_trained(flc, recovered, options, few):
    """Three blocks of ten go: .1^3 of six iterations, .9^3 of the preset's."""
    number = "0.006" if few else "4.4"
    said = f"stage II (bernoulli) trains the pruned network itself in about {number} of 6 iterations"
    warned = f"warning: {said}, and stage III starts from it: give --set recovery.draw=set with a higher"
    _, err = recovered("run", SHORT | options)
    assert (warned in err) == few and ("trains the pruned network itself" in err) == few
    code, out, err = flc("compress", "--out", "dry", "--dry-run", *sets(SHORT | options))
    assert code == 0 and said in words(out) and (warned in words(err)) == few, err


def test_a_recovery_that_breaks_is_said_and_hands_on_the_weights_it_began_with(recovered):
    out, err = recovered("run", BROKEN)
    assert "warning: recover at iteration 2: the pruned network's velocities are" in err
    assert "recover collapsed; the weights of iteration 0, its best, are handed on: lower its learning rates" in err
    assert same(weights(out / "recover"), weights(EMBEDDED))
    well, err = recovered("well", SHORT)
    assert "as far from the original's" not in err and "collapsed" not in err
    assert not same(weights(well / "recover"), weights(EMBEDDED))
    errors = [facts(o / "recover")["health"]["velocity_error"] for o in (well, out)]
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("values", [SHORT, BROKEN], ids=["well", "broken"])
def test_a_recovery_that_is_cut_off_ends_as_if_it_had_not_been(recovered, monkeypatch, values):
    """In weights, and in what was seen of it: the record of looks goes on, too."""
    whole, _ = recovered("whole", values)
    loss_of, calls = loop.loss_of, []

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            loop.STOP.signal = signal.SIGTERM
        return loss_of(*arguments)

    monkeypatch.setattr(loop, "loss_of", cut)
    out, _ = recovered("cut", values, code=128 + signal.SIGTERM)
    loop.STOP.signal = None
    monkeypatch.setattr(loop, "loss_of", loss_of)
    out, err = recovered("cut", values, "--resume")
    assert "recover: resuming from step-0000003" in err
    assert same(weights(out / "recover"), weights(whole / "recover"))
    health = [facts(o / "recover")["health"] for o in (out, whole)]
    assert health[0] == health[1]


def test_looks_change_nothing_but_what_is_said(recovered):
    """Their noise and times are their own: without them a stage ends in the same weights."""
    with_looks, _ = recovered("with", SHORT)
    without, _ = recovered("without", SHORT | {"recover.check_every": 0})
    assert same(weights(with_looks / "recover"), weights(without / "recover"))


@pytest.mark.parametrize(
    "options", [{"recover.check_every": 0}, {"pruner.samples": 8}], ids=["never", "nothing removed"]
)
def test_a_recovery_that_is_not_looked_at_leaves_no_record(flc, place, options):
    whole = ["--keep", 1] if "pruner.samples" in options else []
    code, _, err = flc("compress", "--out", "run", "--until", "recover", *whole, *sets(SHORT | options))
    assert code == 0, err
    assert facts(place / "run" / "recover")["health"] == {}
