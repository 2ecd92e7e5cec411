"""Scores of the control pruners on networks whose answer is known by hand; the guidance of plain sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flc.api import Budget, Sample
from flc.models.condition import Condition
from flc.registry import create

WEIGHTS = {"blocks": (1,) * 10}


def sample(clips: int) -> Sample:
    zeros = torch.zeros(clips, 1, 1, 1, 1)
    return Sample(zeros, zeros, torch.full((clips,), 0.5), Condition(torch.zeros(clips, 1, 1), torch.zeros(1, 1, 1)))


def batches(*sizes: int) -> Callable[[int], Iterator[Sample]]:
    return lambda count: iter([sample(size) for size in sizes])


def scores(pruner: str, model: Any, made: Callable[[int], Iterator[Sample]], **options: Any) -> list[float]:
    """Of a plan that keeps the highest."""
    plan = create("pruner", pruner, options).plan(model, made, Budget(0.5, model.weights))
    found = plan.scores["blocks"]
    best = sorted(range(len(found)), key=lambda i: (found[i], i))[-(len(found) // 2) :]
    assert list(plan.kept["blocks"]) == sorted(best)
    return found


def test_block_influence_is_what_the_hidden_state_turns_whatever_its_length():
    """Kept direction 0, a quarter turn 1, the opposite 2; clips weigh the same in batches of any size."""
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])

    def each_block(s: Sample, measure: Callable[[Tensor, Tensor], Tensor]) -> dict[tuple[str, int], Tensor]:
        before = x.expand(len(s.t), 3, 2)
        some = before if len(s.t) == 3 else y.expand_as(before)  # a quarter turn in the batch of one only
        left = (5 * before, y.expand_as(before), -0.1 * before, some)
        return {("blocks", i): measure(before, after) for i, after in enumerate(left)}

    model = SimpleNamespace(weights={"blocks": (1,) * 4}, each_block=each_block)
    assert scores("shortgpt", model, batches(3, 1)) == pytest.approx([0, 1, 2, 0.25], abs=1e-6)


def test_taylor_importance_is_the_mean_size_of_a_gates_slope_not_its_mean():
    slopes = {0: [0.5, -0.5], 1: [0.3, 0.3], 2: [-1.0, 0.0]}

    def gate_gradients(s: Sample, loss: Callable[[Sample, Tensor], Tensor]) -> dict[tuple[str, int], Tensor]:
        assert torch.equal(loss(s, torch.full_like(s.x0, 3.0)), torch.full((2,), 9.0)), "a clip's own mean square error"
        return {("blocks", i): torch.tensor(v) for i, v in slopes.items()}

    model = SimpleNamespace(weights={"blocks": (1,) * 3}, gate_gradients=gate_gradients)
    assert scores("taylor", model, batches(2, 2)) == pytest.approx([0.5, 0.3, 0.5])


def test_magnitude_is_the_mean_of_all_matrices_entries_without_vectors():
    """Four entries of 1 and two of -4: 2; norms, biases and a table of modulation of any size do not count."""
    blocks = [
        [torch.ones(2, 2), torch.full((1, 2), -4.0), torch.full((7,), 100.0), torch.full((1, 6, 3), 100.0)],
        [torch.full((3, 3), 0.5), torch.zeros(3)],
    ]
    model = SimpleNamespace(weights={"blocks": (1, 1)}, parameters_of=lambda stack, i: blocks[i])
    assert scores("magnitude", model, batches()) == [2.0, 0.5]


@pytest.mark.parametrize(
    ("keep", "gone"), [(1.0, []), (0.9, [5]), (0.7, [1, 5, 8]), (0.5, [1, 3, 5, 7, 9]), (0.3, [0, 2, 3, 5, 6, 7, 9])]
)
def test_uniform_removes_at_the_centres_of_equal_intervals(keep, gone):
    """k of 10 blocks: floor((j + 1/2) 10 / k), j < k."""
    plan = create("pruner", "uniform", {}).plan(SimpleNamespace(weights=WEIGHTS), batches(), Budget(keep, WEIGHTS))
    assert sorted(set(range(10)) - set(plan.kept["blocks"])) == gone


def test_random_repeats_for_a_seed_and_removes_every_block_as_often():
    """3 of 10 blocks over 400 seeds: each 120 times, and within four standard deviations (9.2 each) of that."""
    model, times = SimpleNamespace(weights=WEIGHTS), [0] * 10
    for seed in range(400):
        one, two = (
            create("pruner", "random", {"seed": seed}).plan(model, batches(), Budget(0.7, WEIGHTS)) for _ in range(2)
        )
        assert one == two and len(one.kept["blocks"]) == 7
        for i in set(range(10)) - set(one.kept["blocks"]):
            times[i] += 1
    assert all(abs(n - 120) < 37 for n in times), times


@pytest.mark.parametrize(("options", "scale"), [({"guidance": 3}, 3), ({"guidance": 1}, 1), ({}, 5)])
def test_an_undistilled_student_is_sampled_under_the_guidance_of_its_option_or_the_models_own(options, scale):
    from flc.run.derived import student_guidance

    job: Any = SimpleNamespace(guidance=5.0, algorithm=lambda kind: create(kind, "euler", options))
    assert student_guidance(job) == scale
