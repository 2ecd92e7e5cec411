"""Stage I: the sweep's scores are the naive loop's, and the budget is a share of parameters."""

from __future__ import annotations

import copy

import pytest
import torch

from flc.api import Budget, Sample, View
from flc.flow import noised
from flc.losses import tweedie_error
from flc.models.prunable import Prunable
from flc.models.view import removed
from flc.registry import create


@pytest.fixture
def model(adapter, wan):
    return Prunable(adapter, adapter.prepare(copy.deepcopy(wan)))


@pytest.fixture
def batches(make_condition):
    def samples(count):
        g = torch.Generator().manual_seed(1)
        for index in range(count // 4):
            x0, x1 = torch.randn(2, 4, 16, 3, 4, 4, generator=g).unbind()
            yield Sample(x0, x1, torch.rand(4, generator=g) * 0.9 + 0.05, make_condition(4, seed=index))

    return samples


def test_sweep_scores_equal_the_naive_loops_bit_for_bit(model, batches):
    pruner = create("pruner", "elbo")
    swept = pruner.errors(model, lambda: batches(8))
    evaluations, model.evaluations = model.evaluations, 0
    naive: dict = {}
    for s in batches(8):
        for key, v in model.skip_each_naively(s):
            error = tweedie_error(noised(s.x0, s.x1, s.t), v, s.t, s.x0, s.cond.free(s.x0))
            naive.setdefault(key, []).append(error)
    assert swept.keys() == naive.keys() and len(swept) == 6
    for key, parts in naive.items():
        assert torch.equal(swept[key], torch.cat(parts).double()), key
    batches_run, n = 2, 5
    assert evaluations == batches_run * n * (n + 1) // 2
    assert model.evaluations == batches_run * (n + n * (n - 1))


def test_error_is_eq_4(model, batches):
    """|| x_t - t v - x0 ||^2 per generated element, by hand."""
    s = next(batches(4))
    v = model.velocity(s, View({"blocks": (0, 2, 3, 4)}))
    x_t = noised(s.x0, s.x1, s.t)
    squared = (x_t - s.t.view(-1, 1, 1, 1, 1) * v - s.x0).square()
    by_hand = [squared[i, :, 1 if s.cond.given[i] else 0 :].mean() for i in range(4)]
    got = create("pruner", "elbo").errors(model, lambda: iter([s]))["blocks", 1]
    assert torch.allclose(got, torch.stack(by_hand).double(), rtol=1e-5)  # float32 means of some hundred terms


def test_the_error_of_a_removal_is_eq_4_of_what_is_left(model, batches):
    kept = {"blocks": (0, 2, 4)}
    alone = model.adapter.prepare(removed(model.transformer, kept, model.adapter.stacks))
    small = Prunable(model.adapter, alone)
    left = [s for s in batches(8)]
    by_hand = [tweedie_error(noised(s.x0, s.x1, s.t), small.velocity(s), s.t, s.x0, s.cond.free(s.x0)) for s in left]
    found = model.x0_error(batches(8), View(kept))
    assert found == pytest.approx(float(torch.cat(by_hand).double().mean()), rel=1e-12)
    assert found != model.x0_error(batches(8))


def test_plan_keeps_the_highest_scores(model, batches):
    plan = create("pruner", "elbo", {"samples": 8}).plan(model, batches, Budget(0.6, model.weights))
    scores = plan.scores["blocks"]
    assert plan.kept["blocks"] == tuple(sorted(sorted(range(5), key=lambda i: -scores[i])[:3]))
    low, high = plan.details["interval"]["blocks"][0]
    assert low < scores[0] - plan.details["baseline"] < high
    assert plan.details["ranking"] == "one-shot"


def test_greedy_removes_the_same_first_block_and_re_scores(model, batches):
    one = create("pruner", "elbo", {"samples": 8}).plan(model, batches, Budget(0.8, model.weights))
    greedy = create("pruner", "elbo", {"samples": 8, "search": "greedy"})
    assert greedy.plan(model, batches, Budget(0.8, model.weights)).kept == one.kept
    two = greedy.plan(model, batches, Budget(0.6, model.weights))
    assert set(two.kept["blocks"]) < set(one.kept["blocks"])
    # the second removal is the best one given the first
    first = one.kept["blocks"]

    def joint_without(i):
        return model.x0_error(batches(8), View({"blocks": tuple(b for b in first if b != i)}))

    joint = {i: joint_without(i) for i in first}
    assert set(first) - set(two.kept["blocks"]) == {min(joint, key=joint.get)}


def test_a_block_that_does_nothing_scores_the_baseline_exactly(model, batches):
    with torch.no_grad():
        for i in (1, 3):
            block = model.transformer.blocks[i]
            for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                layer.weight.zero_()
                layer.bias.zero_()
    plan = create("pruner", "elbo", {"samples": 8}).plan(model, batches, Budget(0.6, model.weights))
    same = [i for i, score in enumerate(plan.scores["blocks"]) if score == plan.details["baseline"]]
    assert same == [1, 3]
    assert [plan.details["interval"]["blocks"][i] for i in same] == [(0.0, 0.0)] * 2


@pytest.mark.parametrize(("keep", "stays"), [(1.0, 4), (0.75, 3), (0.74, 2), (0.25, 1), (0.01, 1)])
def test_budget_of_equal_blocks(keep, stays):
    kept = Budget(keep, {"blocks": (10, 10, 10, 10)}).select({"blocks": [4.0, 1.0, 2.0, 3.0]})
    assert kept["blocks"] == tuple(sorted([0, 3, 2, 1][:stays]))


def test_budget_weighs_blocks_of_two_stacks_by_their_parameters():
    budget = Budget(0.7, {"double": (30, 30), "single": (10, 10, 10, 10)})
    kept = budget.select({"double": [9.0, 1.0], "single": [2.0, 3.0, 4.0, 5.0]})
    assert kept == {"double": (0,), "single": (0, 1, 2, 3)} and budget.fits(kept)


def test_one_block_of_each_stack_stays():
    budget = Budget(0.01, {"double": (30, 30), "single": (10, 10)})
    assert budget.select({"double": [9.0, 8.0], "single": [1.0, 2.0]}) == {"double": (0,), "single": (1,)}
