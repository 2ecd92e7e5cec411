"""Eq 9's identities, and the plain teachers."""

from __future__ import annotations

import pytest
import torch

from flc.api import Query
from flc.draws import StepDraws
from flc.registry import create

PRUNED, NULL, UNPRUNED = Query("pruned"), Query("pruned", "null"), Query("unpruned")
LEANING = Query("pruned", "text", 0.25), Query("pruned", "null", 0.25)
"""What magic asks for by default."""
QUERIES = (PRUNED, NULL, UNPRUNED, Query("unpruned", "null"), *LEANING)
V = {q: torch.randn(2, 1, 1, 1, 1, dtype=torch.float64) for q in QUERIES}


def well_guided(beta1: float, beta2: float, v=V):
    options = {"beta1": beta1, "beta2": beta2, "spread1": 0, "spread2": 0}
    return create("teacher", "well-guided", options).compose(v, StepDraws(0, "t", 0))


@pytest.mark.parametrize(
    ("beta1", "beta2", "expected"),
    [
        (1.0, 1.0, V[UNPRUNED]),
        (1.0, 0.0, V[PRUNED]),
        (0.0, 0.0, V[NULL]),
        (3.5, 0.0, V[NULL] + 3.5 * (V[PRUNED] - V[NULL])),
    ],
)
def test_identities_of_eq_9(beta1, beta2, expected):
    assert torch.allclose(well_guided(beta1, beta2), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["well-guided", "strong", "weak", "cfg", "magic"])
def test_the_null_prompt_is_asked_for_only_where_it_has_a_weight(name):
    """At a fixed scale of 1 its weight is 0: what is composed without it equals what is composed with it."""
    key, spread = ("beta1", "spread1") if name == "well-guided" else ("scale", "spread")
    for scale, width, wanted in ((1.0, 0.0, False), (1.0, 0.5, True), (2.0, 0.0, True)):
        teacher = create("teacher", name, {key: scale, spread: width})
        needs = teacher.needs()
        assert any(q.condition == "null" for q in needs) == wanted
        asked, all_of_them = ({q: V[q] for q in needs}, V)
        got = [teacher.compose(v, StepDraws(0, "t", 0)) for v in (asked, all_of_them)]
        assert torch.allclose(*got, atol=1e-14)


def test_the_unpruned_network_is_asked_for_only_where_it_has_a_weight():
    """At a fixed beta2 of 0 its weight is 0: what is composed without it equals what is composed with it."""
    for beta2, width, wanted in ((0.0, 0.0, False), (0.0, 0.1, True), (0.25, 0.0, True)):
        teacher = create("teacher", "well-guided", {"beta1": 2.0, "beta2": beta2, "spread2": width})
        needs = teacher.needs()
        assert (UNPRUNED in needs) == wanted and {PRUNED, NULL} <= set(needs)
        got = [teacher.compose(v, StepDraws(0, "t", 0)) for v in ({q: V[q] for q in needs}, V)]
        assert torch.allclose(*got, atol=1e-14)


def test_no_pruning_makes_eq_9_plain_guidance_whatever_beta2():
    v = dict(V) | {UNPRUNED: V[PRUNED]}
    plain = V[NULL] + 2.5 * (V[PRUNED] - V[NULL])
    assert torch.allclose(well_guided(2.5, 0.25, v), plain, atol=1e-14)


def test_betas_are_drawn_uniformly_around_their_centres():
    teacher = create("teacher", "well-guided", {"beta1": 3.5, "beta2": 0.25})
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    draws = [StepDraws(0, "t", i) for i in range(2000)]
    b1 = torch.cat([teacher.compose({PRUNED: one, NULL: zero, UNPRUNED: one}, d) for d in draws])
    draws = [StepDraws(1, "t", i) for i in range(2000)]
    b2 = torch.cat([teacher.compose({PRUNED: zero, NULL: zero, UNPRUNED: one}, d) for d in draws])
    for values, centre, half in ((b1, 3.5, 1.0), (b2, 0.25, 0.1)):
        assert values.min() >= centre - half and values.max() <= centre + half
        # a uniform law's mean over 2000 draws has standard error half / sqrt(3 * 2000) = .013 half: five of them
        assert float(values.mean()) == pytest.approx(centre, abs=0.065 * half)
        assert float(values.std()) == pytest.approx(half / 3**0.5, rel=0.05)


@pytest.mark.parametrize(("name", "text"), [("strong", UNPRUNED), ("weak", PRUNED), ("cfg", UNPRUNED)])
def test_plain_teachers_are_guidance_of_one_network(name, text):
    null = Query(text.view, "null")
    got = create("teacher", name, {"scale": 3.0}).compose(V, StepDraws(0, "t", 0))
    assert torch.allclose(got, V[null] + 3.0 * (V[text] - V[null]), atol=1e-14)


def test_weak_is_well_guided_without_the_unpruned_network():
    weak = create("teacher", "weak", {"scale": 2.0}).compose(V, StepDraws(0, "t", 0))
    assert torch.allclose(weak, well_guided(2.0, 0.0), atol=1e-14)
