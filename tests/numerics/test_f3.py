"""F3: blocks by the mean over their heads; the mask of heads is an analysis beside it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from flc.api import Budget
from flc.registry import create

#: Shares of (heads,) of four blocks, the same for every clip but one.
SHARES = [[0.9, 0.1, 0.8, 0.7], [0.2, 0.3, 0.1, 0.4], [1.0, 1.0, 0.6, 0.5], [0.0, 0.9, 0.9, 0.9]]


class Attending:
    """Two batches, of three clips and of one, whose attention is 1 everywhere."""

    def __init__(self):
        self.weights = {"blocks": (10, 10, 10, 10)}

    def cross_frame_attention(self, sample, queries):
        assert queries == 256
        of_one = {("blocks", i): torch.tensor(heads) for i, heads in enumerate(SHARES)}
        return {k: v.expand(3, 4) if len(sample.t) == 3 else torch.ones(1, 4) for k, v in of_one.items()}


def planned(keep: float):
    model = Attending()
    clips = [SimpleNamespace(t=torch.zeros(count)) for count in (3, 1)]
    return create("pruner", "f3", {"samples": 4}).plan(model, lambda count: iter(clips), Budget(keep, model.weights))


@pytest.fixture
def plan():
    return planned(0.5)


def test_a_blocks_score_is_the_mean_over_clips_and_heads_and_the_lowest_go(plan):
    expected = [(3 * sum(heads) / 4 + 1) / 4 for heads in SHARES]
    assert plan.scores["blocks"] == pytest.approx(expected, abs=1e-6)  # float32 shares
    assert plan.kept == {"blocks": (2, 3)}


def test_the_mask_keeps_the_highest_heads_wherever_they_are(plan):
    assert plan.details["heads"]["blocks"][1] == pytest.approx([(3 * h + 1) / 4 for h in SHARES[1]], abs=1e-6)
    assert plan.details["head_mask"]["blocks"] == [
        [True, False, True, True], [False] * 4, [True, True, False, False], [False, True, True, True],
    ]  # fmt: skip


def test_with_nothing_to_remove_every_head_stays():
    plan = planned(1.0)
    assert plan.kept == {"blocks": (0, 1, 2, 3)} and all(map(all, plan.details["head_mask"]["blocks"]))
