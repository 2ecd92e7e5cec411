"""Block evaluations: counted as they run, by the equations of each objective worked out by hand.

The miniature has 5 blocks of which 3 stay. Written per iteration and clip as (forwards) + 2 (backwards).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flc.train.evaluations import BlockEvaluations

CLIPS = 4
PLAIN = ("cfg", {"scale": 1.0, "spread": 0.0})
"""A teacher that asks for one velocity, of the whole network: 5."""


def one_step(m):
    """A rollout of one step only: no exit is drawn."""
    m.objective.setting = replace(m.objective.setting, schedule=m.adapter.schedule(1, 5.0, "sde"))
    return m


@pytest.mark.parametrize(
    ("case", "options", "expected"),
    [
        ("sft", {}, 3 + 2 * 3),
        # student; the frozen network it is held against
        ("bernoulli", {"p": 1.0, "drift_every": 1}, (3 + 2 * 3) + 5 + 5),
        # teacher; the moving average; student
        ("lcm", {}, 5 + 3 + (3 + 2 * 3)),
        # student's velocity, its features, the original's, the critic through the original; then the head's phase
        ("icmd", {}, (3 + 2 * 3) + (3 + 2 * 3) + 5 + (5 + 2 * 5) + 3 + 5 + 5),
        # rollout, teacher, fake; then the fake's phase with a rollout of its own
        ("dmd", {"fake_warmup": 0, "ratio": 1}, (3 + 2 * 3) + 5 + 3 + 3 + (3 + 2 * 3)),
        ("dmd", {"fake_warmup": 9}, 3 + (3 + 2 * 3)),
        # the same with a low-rank fake: it lies on the whole frozen network, seen through the pruned view
        ("dmd-lora", {"fake_warmup": 0, "ratio": 1}, (3 + 2 * 3) + 5 + 3 + 3 + (3 + 2 * 3)),
    ],
)
def test_an_iteration_costs_what_its_equations_ask_for(miniature, tmp_path, case, options, expected):
    m = miniature(case, teacher=PLAIN, **options)
    m = one_step(m) if case.startswith("dmd") else m
    m.run(tmp_path, 1)
    assert m.cost.evaluations == CLIPS * expected


def test_a_block_that_is_skipped_costs_nothing(miniature, tmp_path):
    costs = {}
    for p in (0.0, 1.0):
        m = miniature("bernoulli", p=p, drift_every=100)
        m.run(tmp_path / str(p), 2)
        costs[p] = m.cost.evaluations
    assert costs[0.0] - costs[1.0] == 2 * CLIPS * 3 * 2, "two iterations, two blocks, forward and backward"


def test_two_sittings_cost_what_one_does_and_parts_what_the_whole_batch_does(miniature, tmp_path):
    whole = miniature("dmd")
    whole.run(tmp_path / "whole", 7)
    miniature("dmd").run(tmp_path / "cut", 3)
    again = miniature("dmd")
    again.run(tmp_path / "cut", 7)
    parts = miniature("dmd", parts=2)
    parts.run(tmp_path / "parts", 7)
    assert again.cost.evaluations == parts.cost.evaluations == whole.cost.evaluations > 0


def test_what_looks_at_samples_beside_the_training_costs_nothing(miniature, tmp_path):
    m = miniature("sft")
    plain = m.nets["student"]
    x = torch.zeros(2, 16, 3, 4, 4)

    def look(step, metrics):
        plain(x, torch.zeros(2), m.batch_at(m.nets.rng).cond[slice(0, 2)])

    m.run(tmp_path, 2, on_step=look)
    assert m.cost.evaluations == 2 * CLIPS * 9


def test_memory_that_is_saved_by_computing_again_is_no_cost_of_the_method(miniature, tmp_path):
    counts = []
    for checkpointing in (False, True):
        m = miniature("dmd")
        for module in (*m.modules.values(), m.source) if checkpointing else ():
            module.enable_gradient_checkpointing()
        m.run(tmp_path / str(checkpointing), 4)
        counts.append(m.cost.evaluations)
    assert counts[0] == counts[1] > 0


def test_nothing_is_counted_and_no_hook_stays_outside_of_the_training():
    block = torch.nn.Linear(3, 3)
    counter = BlockEvaluations([block, block])
    x = torch.ones(2, 3, requires_grad=True)
    with counter.counting():
        block(x).sum().backward()
    assert counter.count == 2 * (1 + 2), "a block that two networks share is one"
    block(x)
    assert counter.count == 6 and not block._forward_hooks
