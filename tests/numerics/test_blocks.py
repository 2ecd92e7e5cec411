"""What pruners and heads see of a network: hidden states, gates' gradients, features of a view."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from flc.api import Sample, View
from flc.errors import UserError
from flc.flow import noised
from flc.losses import flow_error
from flc.models.prunable import Prunable
from flc.models.view import exchanged, removed
from flc.train.nets import RoleNet

KEPT = View({"blocks": (0, 2, 4)})


@pytest.fixture
def sample(make_condition) -> Sample:
    g = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(2, 2, 16, 3, 4, 4, generator=g)
    return Sample(x0, x1, torch.tensor([0.3, 0.7]), make_condition(2))


@torch.no_grad()
def test_each_block_is_measured_in_a_plain_forward_by_what_enters_and_leaves_it(adapter, wan, sample):
    adapter.prepare(wan)
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append((i[0], o))) for b in wan.blocks]
    Prunable(adapter, wan).velocity(sample)
    for hook in hooks:
        hook.remove()
    prunable = Prunable(adapter, wan)
    found = prunable.each_block(sample, lambda before, after: torch.stack([before, after], 1))
    assert list(found) == [("blocks", i) for i in range(5)] and prunable.evaluations == 5
    for value, pair in zip(found.values(), seen, strict=True):
        assert torch.equal(value, torch.stack(pair, 1))
    assert all(torch.equal(a[:, 1], b[:, 0]) for a, b in pairwise(found.values()))
    assert len(wan.blocks) == 5


class AtGate(nn.Module):
    """h + g (block(h) - h), written again."""

    def __init__(self, block: nn.Module, gate: float) -> None:
        super().__init__()
        self.block, self.gate = block, gate

    def forward(self, hidden: Tensor, *args: Tensor) -> Tensor:
        return (1 - self.gate) * hidden + self.gate * self.block(hidden, *args)


def test_gate_gradients_are_the_slopes_of_each_clips_loss(adapter, wan, sample):
    """Against central differences of step .02, in float32: h^2 of curvature and 1e-7 / h of rounding leave .5 % of
    the largest slope."""
    adapter.prepare(wan)
    prunable, h = Prunable(adapter, wan), 0.02
    found = prunable.gate_gradients(sample, flow_error)
    slopes = {}
    for i in range(5):
        sides = []
        for gate in (1 + h, 1 - h):
            blocks = [AtGate(b, gate) if j == i else b for j, b in enumerate(wan.blocks)]
            with exchanged(wan, "blocks", blocks):
                sides.append(flow_error(sample, prunable.velocity(sample)))
        slopes["blocks", i] = (sides[0] - sides[1]) / (2 * h)
    largest = max(float(s.abs().max()) for s in slopes.values())
    assert found.keys() == slopes.keys() and largest > 0.01
    for key, slope in slopes.items():
        assert found[key].shape == (2,) and torch.allclose(found[key], slope, atol=5e-3 * largest), key
    assert all(p.grad is None for p in wan.parameters())


class Stacks(nn.Module):
    """A family of two stacks, which `RoleNet` meets as it meets any other."""

    stacks: ClassVar = {"doubles": "num_layers", "singles": "num_single_layers"}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.doubles, self.singles = (nn.ModuleList(nn.Linear(4, 4) for _ in range(n)) for n in (3, 5))
        self.ran = 0

    def velocity(self, call, module, x, t, cond):
        hidden = x.flatten(2).mT  # tokens of C numbers
        for block in (*self._modules["doubles"], *self._modules["singles"]):
            hidden = block(hidden)
            self.ran += 1
        return hidden.mT.unflatten(2, x.shape[2:])

    def by_frame(self, hidden, frames):
        return hidden.unflatten(1, (frames, -1))


def test_features_count_the_blocks_of_all_stacks():
    net, x = Stacks(), torch.randn(2, 4, 3, 2, 2)
    chosen = View({"doubles": (0, 2), "singles": (0, 1, 2, 4)})
    found = RoleNet(net, net, net, View()).features(x, torch.zeros(2), None, [1 / 6, 0.5, 5 / 6], chosen)
    assert net.ran == 5, "the last block of the view does not run"
    hidden, expected = x.flatten(2).mT, []
    for block in (net.doubles[0], net.doubles[2], *(net.singles[i] for i in (0, 1, 2))):
        hidden = block(hidden)
        expected.append(hidden.unflatten(1, (3, -1)))
    assert all(torch.equal(a, b) for a, b in zip(found, (expected[0], expected[2], expected[4]), strict=True))
    assert [len(net.doubles), len(net.singles)] == [3, 5]


@torch.no_grad()
@pytest.mark.parametrize("share", [1 / 3, 2 / 3, 1.0])
def test_features_of_a_view_are_those_of_the_network_without_the_other_blocks(adapter, wan, sample, share):
    adapter.prepare(wan)
    small = adapter.prepare(removed(wan, KEPT.kept, adapter.stacks))
    x_t = noised(sample.x0, sample.x1, sample.t)
    (seen,) = RoleNet(adapter, wan, wan, KEPT).features(x_t, sample.t, sample.cond, [share])
    expected = Prunable(adapter, small).each_block(sample, lambda _, after: after)["blocks", round(3 * share) - 1]
    assert seen.shape == (2, 3, 4, 24), "batch, latent frames, tokens of a frame, width"
    assert torch.equal(seen.flatten(1, 2), expected)
    (other,) = RoleNet(adapter, wan, wan, View()).features(x_t, sample.t, sample.cond, [share], KEPT)
    assert torch.equal(other, seen) and len(wan.blocks) == 5


@torch.no_grad()
def test_features_run_no_block_beyond_the_last_they_need(adapter, wan, sample):
    adapter.prepare(wan)
    ran: list[int] = []
    hooks = [b.register_forward_hook(lambda m, x, o, i=i: ran.append(i)) for i, b in enumerate(wan.blocks)]
    x_t = noised(sample.x0, sample.x1, sample.t)
    first, second = RoleNet(adapter, wan, wan, View()).features(x_t, sample.t, sample.cond, [0.4, 0.8])
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2, 3] and not torch.equal(first, second)


def test_depths_that_fall_together_are_refused(adapter, wan, sample):
    net = RoleNet(adapter, adapter.prepare(wan), wan, View())
    with pytest.raises(UserError, match="fall together on 5 blocks"):
        net.features(sample.x0, sample.t, sample.cond, [0.4, 0.41])


def test_gradients_through_features_are_the_same_when_blocks_are_recomputed(adapter, wan, sample):
    """With respect to the input, as a generator's GAN loss has it. 1e-4 of the largest: float32, and text padding
    that is folded in one and not in the other."""
    adapter.prepare(wan)
    twin = adapter.prepare(copy.deepcopy(wan))
    twin.enable_gradient_checkpointing()
    grads = []
    for model in (wan, twin):
        x = sample.x0.clone().requires_grad_()
        features = RoleNet(adapter, model, model, View()).features(x, sample.t, sample.cond, [0.4, 1.0])
        sum(f.pow(2).mean() for f in features).backward()
        grads.append(x.grad)
    assert grads[0].abs().max() > 0
    assert (grads[0] - grads[1]).abs().max() < 1e-4 * grads[0].abs().max()


def test_gate_gradients_of_blocks_that_are_computed_again_are_the_same(adapter, wan, sample):
    """What a large network's activations ask for; text is padded then, and not folded into a bias."""
    adapter.prepare(wan)
    calls: list[int] = []
    for block in wan.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))

    def found(checkpointing: bool) -> dict[tuple[str, int], Tensor]:
        calls.clear()
        model = Prunable(adapter, wan, checkpointing)
        return model.gate_gradients(sample, flow_error)

    plain, once = found(False), len(calls)
    again, twice = found(True), len(calls)
    assert (once, twice) == (5, 10) and not wan.gradient_checkpointing
    largest = max(float(g.abs().max()) for g in plain.values())
    for key, gradient in plain.items():  # float32 sums over 512 rows of text instead of a few
        assert torch.allclose(again[key], gradient, atol=1e-4 * largest), key
