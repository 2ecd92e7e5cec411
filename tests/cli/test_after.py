"""Blocks chosen after some iterations of stage II: these count as its own, and a run cut off in them goes on."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from flc.models.folder import EMBEDDED
from flc.train import loop
from flc.train.loop import LoopOptions, lr_factor
from tests.cli.small import SMALL

AFTER = SMALL | {"pruner.after": 3, "pruner.times": "student", "pruner.search": "sets", "recover.log_every": 1}


def sets(values: dict) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def weights(stage):
    return load_file(stage / "transformer" / "diffusion_pytorch_model.safetensors")


def steps(stage) -> list[int]:
    return [json.loads(line)["step"] for line in (stage / "log.jsonl").read_text().splitlines()]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def networks(monkeypatch):
    """Of each trained stage: (name, the network it begins with, the one that it is held against)."""
    from flc.train import stage

    out, build = [], stage.build

    def kept(adapter, source, roles, seed=0, unpruned=None):
        modules = build(adapter, source, roles, seed, unpruned)
        frozen = {n: p.detach().clone() for n, p in modules["original"].named_parameters()}
        out.append(({n: p.detach().clone() for n, p in modules["student"].named_parameters()}, frozen))
        return modules

    monkeypatch.setattr(stage, "build", kept)
    return out


def test_stage_two_goes_on_from_the_network_that_was_scored(flc, place, networks):
    """Six iterations in all: three with random blocks away, three with the chosen ones; both are held against the
    model's own network, and the second three begin with the weights that the first three left."""
    code, _, err = flc("compress", "--out", "run", "--until", "recover", *sets(AFTER))
    assert code == 0, err
    plan = json.loads((place / "run" / "score" / "plan.json").read_text())
    assert plan["after"] == 3 and steps(place / "run" / "score") == steps(place / "run" / "recover") == [1, 2, 3]
    assert plan["details"]["times"] == pytest.approx([1.0, 0.9, 0.75, 0.5], abs=1e-3), "the student's, without its end"
    own, scored = weights(EMBEDDED), weights(place / "run" / "score")
    sweep = 10 + 10 * 9 // 2
    assert (plan["block_evaluations"], plan["batch"]) == (sweep + sweep + 120 * 7, 16), "before and after, and the sets"
    (begins, held), (goes_on, still) = networks
    assert same(begins, own) and same(held, own) and same(still, own)
    assert same(goes_on, scored) and not same(scored, own)
    assert plan["removal"]["trained"] != plan["removal"]["pruned"], "of the trained network, and of the model's own"


def test_a_run_cut_off_before_the_blocks_are_chosen_ends_in_the_same_weights(flc, place, monkeypatch):
    assert flc("compress", "--out", "whole", "--until", "recover", *sets(AFTER))[0] == 0
    train, calls = loop.loss_of, []

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            loop.STOP.signal = signal.SIGTERM
        return train(*arguments)

    monkeypatch.setattr(loop, "loss_of", cut)
    code, _, err = flc("compress", "--out", "cut", "--until", "recover", *sets(AFTER))
    loop.STOP.signal = None
    assert code == 128 + signal.SIGTERM and (place / "cut" / ".partial-score" / "checkpoints" / "latest").exists(), err
    monkeypatch.setattr(loop, "loss_of", train)
    code, _, err = flc("compress", "--out", "cut", "--until", "recover", "--resume", *sets(AFTER))
    assert code == 0 and "score: resuming from step-0000002" in err, err
    for stage in ("score", "recover"):
        assert same(weights(place / "cut" / stage), weights(place / "whole" / stage)), stage
    assert (place / "cut" / "score" / "plan.json").read_text() == (place / "whole" / "score" / "plan.json").read_text()


def test_no_more_than_half_of_stage_two_comes_before_and_a_recovery_that_cannot_gives_none(flc, place):
    code, _, err = flc("score", "--out", "half", *sets(AFTER | {"pruner.after": 160}))
    assert code == 0 and "asks for 160 iterations of stage II before it scores and is given 3, half of" in err, err
    assert json.loads((place / "half" / "score" / "plan.json").read_text())["after"] == 3
    code, _, err = flc("compress", "--out", "none", "--recovery", "none", "--until", "score", *sets(AFTER))
    assert code == 0 and "--recovery none does not train so, and blocks are scored on the model as it is" in err, err
    assert not (place / "none" / "score" / "transformer").exists()


def test_a_dry_run_scores_the_model_as_it_is_and_says_so(flc, place, monkeypatch):
    from flc.run import scoring

    monkeypatch.setattr(scoring, "train_before", lambda *_: pytest.fail("a dry run trains what it says it would"))
    code, out, err = flc("compress", "--out", "run", "--dry-run", *sets(AFTER))
    assert code == 0, err
    assert "the run chooses them after the first 3 iterations of stage II" in " ".join(out.split())


def test_another_recovery_makes_a_plan_anew_only_where_it_came_before_it(flc, place):
    """Without `after` the plan does not rest on stage II."""
    for name, after, made_again in (("with", 3, True), ("without", 0, False)):
        options = AFTER | {"pruner.after": after}
        assert flc("compress", "--out", name, "--until", "prune", *sets(options))[0] == 0
        other = sets(options | {"recovery.clip": 0.5})
        code, _, err = flc("compress", "--out", name, "--until", "prune", "--resume", *other)
        assert code == 0 and ("was made with another recovery" in err) == made_again, err


def test_rates_fall_over_the_whole_of_a_training_that_two_stages_share():
    """Its last half is the second stage's last half and a half more; the warm-up is each stage's own."""
    first, second, whole = (
        LoopOptions("a", n, 0, decay=True, before=b, after=a) for n, b, a in ((4, 0, 8), (8, 4, 0), (12, 0, 0))
    )
    shared = [lr_factor(i, first, 0) for i in range(4)] + [lr_factor(i, second, 0) for i in range(8)]
    assert shared == [lr_factor(i, whole, 0) for i in range(12)]
    assert shared[:6] == [1.0] * 6 and shared[-1] == pytest.approx(1 / 6)
    assert [lr_factor(i, second, 2) for i in range(2)] == [0.5, 1.0]


def test_a_plan_that_leaves_no_iteration_of_stage_two_is_refused(flc, refused, place):
    """Such as one of a longer run: the network would be handed on as it was scored, and called recovered."""
    assert flc("compress", "--out", "long", "--until", "score", *sets(AFTER))[0] == 0
    line = refused("recover", "--plan", "long/score", "--out", "short", *sets(AFTER | {"recover.iterations": 3}))
    assert "made after 3 iterations of stage II, and recover.iterations=3 leaves none" in line
    code, _, err = flc("recover", "--plan", "long/score/plan.json", "--out", "alone",
                       *sets(AFTER | {"recover.iterations": 3}))  # fmt: skip
    assert code == 0 and steps(place / "alone" / "recover") == [1, 2, 3], err


@pytest.mark.parametrize("after", ["x", -1, 2.5, True, [3]], ids=str)
def test_what_a_plan_says_came_before_it_is_checked(refused, place, after):
    plan = {"kept": {"blocks": [0, 1, 2, 3, 4, 5, 6]}, "after": after}
    (place / "plan.json").write_text(json.dumps(plan))
    line = refused("recover", "--plan", "plan.json", "--out", "run", *sets(SMALL))
    assert "plan.json: after=" in line and "0 for none" in line


def test_a_dry_run_of_a_run_that_has_its_plan_takes_that(flc, place, monkeypatch):
    assert flc("compress", "--out", "run", "--until", "score", *sets(AFTER))[0] == 0
    kept = json.loads((place / "run" / "score" / "plan.json").read_text())["kept"]["blocks"]
    monkeypatch.setattr("flc.run.stages.score.make_plan", lambda *_: pytest.fail("blocks were scored again"))
    code, out, err = flc("compress", "--out", "run", "--resume", "--dry-run", *sets(AFTER))
    said = " ".join(out.split())
    assert code == 0 and f"keep {kept}" in said and "the run chooses them after" not in said, err
