"""Stage II's draws: in how many iterations the pruned network itself is trained, at 10 and at 40 blocks."""

from __future__ import annotations

from typing import Any

import pytest

from flc.api import RecoveryTrainer, Setting, View
from flc.draws import StepDraws
from flc.registry import create

DEPTHS = {10: (2, 5, 8), 40: tuple(i for i in range(40) if i % 10 in (2, 5, 8))}
"""By number of blocks, which go: three of ten, and twelve of forty as at Wan-14B."""


def bernoulli(blocks: int, iterations: int, **options: Any) -> Any:
    full = View({"blocks": tuple(range(blocks))})
    pruned = View({"blocks": tuple(i for i in range(blocks) if i not in DEPTHS[blocks])})
    return create("recovery", "bernoulli", options).bind(Setting(pruned, full, 4, iterations))


def drawn(objective: Any, step: int) -> tuple[int, ...]:
    return objective._drawn(step, StepDraws(0, "recover", step)).kept["blocks"]


CASES: list[dict[str, Any]] = [
    {},
    {"p": 0.75},
    {"p": 0.3, "p_end": 1.0},
    {"draw": "block"},
    {"draw": "block", "p": 0.9},
    {"draw": "block", "p": 0.5, "p_end": 1.0},
    {"anchor": "shared"},
    {"anchor": "shared", "draw": "block", "p": 0.9},
    {"anchor": "shared", "alpha": 0.5},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("blocks", DEPTHS)
def test_the_closed_form_is_how_often_the_pruned_network_is_drawn(blocks, options):
    """Counted over 4,000 iterations, within 4.5 standard errors of independent draws."""
    objective = bernoulli(blocks, 4000, **options)
    pruned = objective.setting.pruned.kept["blocks"]
    counted = sum(drawn(objective, step) == pruned for step in range(4000))
    expected = objective.pruned_iterations()
    share = expected / 4000
    assert counted == pytest.approx(expected, abs=4.5 * (4000 * share * (1 - share)) ** 0.5 + 1e-6)


def test_the_paper_s_draw_trains_the_pruned_network_in_every_second_iteration_and_the_other_hardly_ever():
    """Wan-14B's: twelve blocks, p = .5, 4,000 iterations."""
    assert bernoulli(40, 4000).pruned_iterations() == 2000
    assert bernoulli(40, 4000, draw="block").pruned_iterations() == pytest.approx(4000 / 2**12)
    assert bernoulli(10, 4000, draw="block").pruned_iterations() == pytest.approx(4000 / 2**3)
    assert bernoulli(40, 4000, p=0.3, p_end=1.0).pruned_iterations() == pytest.approx(4000 * 0.65)


def test_p_goes_by_the_same_step_from_its_first_value_to_its_last():
    rising, falling = bernoulli(10, 5, p=0.2, p_end=1.0), bernoulli(10, 5, p=1.0, p_end=0.0)
    assert [rising._p(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [falling._p(step) for step in range(5)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert bernoulli(10, 1, p=0.2, p_end=1.0)._p(0) == 0.2, "a single iteration has the first"
    assert {bernoulli(10, 5, p=0.2)._p(step) for step in range(5)} == {0.2}


def test_where_nothing_is_removed_every_iteration_is_the_pruned_network_s():
    full = View({"blocks": (0, 1, 2)})
    for options in CASES:
        objective = create("recovery", "bernoulli", options).bind(Setting(full, full, 4, 100))
        assert objective.pruned_iterations() == 100 and drawn(objective, 0) == (0, 1, 2)


@pytest.mark.parametrize("blocks", DEPTHS)
@pytest.mark.parametrize("draw", ["set", "block"])
def test_with_a_shared_target_alone_every_iteration_skips_something(blocks, draw):
    """Whatever p is: without a skip there is no loss. Which block it is, where a single one is skipped after all, is
    drawn evenly: of 4,000 each has a share of 1/3 or 1/12, 4.5 standard errors of 1/3 are .034."""
    objective = bernoulli(blocks, 4000, anchor="shared", draw=draw, p=0.0)
    sizes, gone = set(), dict.fromkeys(DEPTHS[blocks], 0)
    for step in range(4000):
        kept = drawn(objective, step)
        sizes.add(blocks - len(kept))
        for i in set(range(blocks)) - set(kept):
            gone[i] += 1
    assert sizes == {len(DEPTHS[blocks]) if draw == "set" else 1}
    even = 1 if draw == "set" else 1 / len(gone)
    assert all(count / 4000 == pytest.approx(even, abs=0.034) for count in gone.values())
    assert objective.options.unused() == (("p", "p_end") if draw == "set" else ())
    assert bernoulli(blocks, 4000, draw=draw, p=0.0).options.unused() == (), "a frozen target has a loss of its own"


def test_a_trainer_that_does_not_say_says_nothing():
    class Silent(RecoveryTrainer):
        def roles(self):
            return {}

        def loss(self, phase, nets, batch, step, rng):
            raise NotImplementedError

    assert Silent().pruned_iterations() is None
