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


class Fixed:
    """Shared draws as given, one after the other."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def shared_integer(self, stop):
        return self.numbers.pop(0) % stop


def test_random_removals_fit_leave_others_alone_and_reach_every_set():
    """All pairs of four removable blocks in 200 draws: one of the six is missing with probability 6 (5/6)^200."""
    from flc.draws import StepDraws

    budget = Budget(0.8, {"blocks": (7,) * 10})
    removable = {"blocks": (1, 3, 5, 7)}
    drawn = {budget.at_random(StepDraws(0, "score", step), removable)["blocks"] for step in range(200)}
    gone = {tuple(sorted(set(range(10)) - set(kept))) for kept in drawn}
    assert gone == {(1, 3), (1, 5), (1, 7), (3, 5), (3, 7), (5, 7)}
    ranks = [budget.at_random(StepDraws(0, "score", 4, rank, 2), removable) for rank in (0, 1)]
    assert ranks[0] == ranks[1], "every rank runs the same blocks"
    deep = Budget(0.7, {"blocks": (7,) * 40})
    kept = deep.at_random(StepDraws(0, "score", 0), {"blocks": tuple(range(1, 40))})["blocks"]
    assert len(kept) == 28 and 0 in kept


def test_one_block_of_each_stack_stays_of_random_removals():
    budget = Budget(0.3, {"double": (30, 30), "single": (10, 10)})
    kept = budget.at_random(Fixed(0, 0, 0, 0), {"double": (0, 1), "single": (0, 1)})
    assert kept == {"double": (1,), "single": (1,)}


def test_every_set_is_scored_and_the_best_one_stays(model, batches):
    """Against the errors of all ten pairs by `x0_error`; means of float32 clip errors in another order."""
    from itertools import combinations

    plan = create("pruner", "elbo", {"samples": 8, "search": "sets"}).plan(model, batches, Budget(0.6, model.weights))
    errors = {kept: model.x0_error(batches(8), View({"blocks": kept})) for kept in combinations(range(5), 3)}
    assert plan.kept["blocks"] == min(errors, key=errors.get)
    ranked = sorted(errors.values())
    assert [row["error"] for row in plan.details["sets"]] == pytest.approx(ranked, rel=1e-6)


def test_sets_of_unequal_blocks_are_those_that_no_block_could_come_back_to():
    from flc_plugins.fastlightgen.elbo import removals

    budget = Budget(0.7, {"double": (30, 30), "single": (10, 10, 10, 10)})
    found = removals(budget)
    assert {"double": (0,), "single": (0, 1, 2, 3)} in found and {"double": (0, 1), "single": (2,)} in found
    assert {"double": (0,), "single": (0, 1, 2)} not in found, "a single block could come back"
    assert all(budget.fits(kept) for kept in found) and len(found) == 2 + 4


@pytest.mark.parametrize(("depth", "keep", "ways"), [(40, 0.95, 780), (17, 0.95, 17), (40, 1.0, 1)])
def test_sets_are_counted_without_those_that_remove_more_than_they_must(depth, keep, ways):
    from flc_plugins.fastlightgen.elbo import removals

    found = removals(Budget(keep, {"blocks": (7,) * depth}))
    assert len(found) == ways and len({len(kept["blocks"]) for kept in found}) == 1


def test_too_many_sets_are_refused_in_one_line_with_the_way_out(model, batches):
    from flc.errors import UserError
    from flc_plugins.fastlightgen.elbo import removals

    with pytest.raises(
        UserError, match=r"would score \d+ sets of blocks, 1000 at most: use --set pruner.search=greedy"
    ):
        removals(Budget(0.7, {"blocks": (7,) * 40}))


def test_blocks_beyond_repair_are_never_away_unless_the_budget_asks_for_them(model, batches):
    """Without block 2 the velocity is a hundred times what it is: x0 is estimated far worse than by 0."""
    pruner = create("pruner", "elbo", {"samples": 8})
    errors = {("blocks", i): 0.5 + 0.01 * i for i in range(5)} | {("blocks", 2): 3.0, None: 0.4}
    pruner.errors = lambda *_: {key: torch.full((8,), value).double() for key, value in errors.items()}
    assert pruner.removable(model, batches, Budget(0.6, model.weights)) == {"blocks": (0, 1, 3, 4)}
    errors |= {("blocks", i): 2.0 + i for i in range(5)}
    cheapest = pruner.removable(model, batches, Budget(0.6, model.weights))
    assert cheapest == {"blocks": (0, 1)}, "two have to go: the cheapest two"


def test_the_students_times_come_in_turn(model, batches):
    model.sigmas = (1.0, 0.9, 0.75)
    pruner = create("pruner", "elbo", {"samples": 8, "times": "student"})
    times = torch.cat([s.t for s in pruner.data(model, batches)()])
    assert times.tolist() == torch.tensor([1.0, 0.9, 0.75, 1.0, 0.9, 0.75, 1.0, 0.9]).tolist()
    assert pruner.reads_schedule() and not create("pruner", "elbo").reads_schedule()
