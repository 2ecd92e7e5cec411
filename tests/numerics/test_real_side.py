"""Eq 9 over two networks: the pruned view of the recovered one, and the original."""

from __future__ import annotations

import copy

import pytest
import torch

from flc.api import Query, View
from flc.draws import StepDraws
from flc.models.view import removed
from flc.registry import create
from flc.train.nets import RoleNet, Teacher

#: Under (0, 1, 2) one network's two sides share what leaves block 2; here each has blocks of its own.
KEPT = [(0, 2, 4), (0, 1, 2), (1, 2, 3, 4)]


@pytest.fixture
def networks(adapter, wan):
    """The original, and what stage II may have made of it."""
    recovered, g = copy.deepcopy(wan), torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in recovered.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return adapter.prepare(wan), adapter.prepare(recovered)


def composed(adapter, networks, kept, cond, x, t, **betas):
    original, recovered = (RoleNet(adapter, m, m, View()) for m in networks)
    teacher = create("teacher", "well-guided", {"spread1": 0, "spread2": 0} | betas)
    return Teacher(recovered, teacher, View({"blocks": kept}), original)(x, t, cond, StepDraws(0, "t", 0))


@pytest.mark.parametrize("kept", KEPT, ids=str)
@torch.no_grad()
def test_eq_9_is_made_of_the_recovered_pruned_network_and_of_the_original(adapter, networks, make_condition, kept):
    """Its identities, and one composition by hand, against each network alone on a copy whose blocks are really gone.
    2e-4: float32 sums of other batch sizes, times up to 3."""
    original, recovered = networks
    cond, x, t = make_condition(4), torch.randn(4, 16, 3, 4, 4), torch.tensor([0.2, 0.5, 0.7, 0.9])
    small = adapter.prepare(removed(recovered, {"blocks": kept}, adapter.stacks))
    text, null = (adapter.velocity(small, small, x, t, c) for c in (cond, cond.without_text()))
    whole, other = (adapter.velocity(m, m, x, t, cond) for m in (original, recovered))
    assert not torch.allclose(whole, other, atol=1e-2)
    for beta1, beta2, expected in (
        (1.0, 1.0, whole),
        (1.0, 0.0, text),
        (0.0, 0.0, null),
        (3.0, 0.0, null + 3 * (text - null)),
        (2.0, 0.25, 2 * (text - null) + 0.25 * (whole - text) + null),
    ):
        found = composed(adapter, networks, kept, cond, x, t, beta1=beta1, beta2=beta2)
        assert torch.allclose(found, expected, atol=2e-4), (beta1, beta2)


@torch.no_grad()
def test_while_both_are_one_network_it_does_not_matter_which_is_asked(adapter, networks, make_condition):
    """Before stage II has moved a weight, `original` and `recovered` are the same teacher. 2e-5: the prefix that one of
    them shares goes in a larger batch."""
    original = networks[0]
    cond, x, t = make_condition(4), torch.randn(4, 16, 3, 4, 4), torch.full((4,), 0.5)
    net, teacher = RoleNet(adapter, original, original, View()), create("teacher", "well-guided")
    pruned = View({"blocks": (0, 1, 2)})
    apart, shared = (Teacher(net, teacher, pruned, unpruned).evaluate(x, t, cond) for unpruned in (net, None))
    assert apart.keys() == shared.keys() and Query("unpruned") in apart
    assert all(torch.allclose(apart[q], shared[q], atol=2e-5) for q in apart)
