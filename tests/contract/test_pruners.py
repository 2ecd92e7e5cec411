"""What every registered pruner keeps: its plan fits, repeats itself, and leaves the model as it is."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flc.api import Budget, Sample, View
from flc.flow import noised
from flc.models.channels import channel_size
from flc.registry import create

from .common import Blocks, make_samples, of_kind

# -- pruners ---------------------------------------------------------------------------------------------------


class TinyPrunable:
    """`flc.api.PrunableModel` in plain torch."""

    def __init__(self, stacks: Mapping[str, int]) -> None:
        self.blocks = Blocks(stacks).requires_grad_(False)

    @property
    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {s: tuple(sum(p.numel() for p in b.parameters()) for b in bs) for s, bs in self.blocks.stacks.items()}

    @property
    def ffn(self) -> dict[str, tuple[int, int]]:
        return {s: channel_size(bs[0][-1]) for s, bs in self.blocks.stacks.items()}  # type: ignore[index]

    def feed_forward(self, stack: str, block: int) -> nn.Module:
        return self.blocks.stacks[stack][block][-1]  # type: ignore[index]

    @contextmanager
    def gradients(self, samples: Iterable[Sample], loss: Callable[[Sample, Tensor], Tensor]) -> Iterator[None]:
        self.blocks.requires_grad_(True)
        for s in samples:
            loss(s, self.velocity(s)).sum().backward()
        yield
        self.blocks.requires_grad_(False)
        for p in self.blocks.parameters():
            p.grad = None

    def inputs(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        return sample.cond.clamp(noised(sample.x0, sample.x1, sample.t)), sample.t, sample.cond.text

    def velocity(self, sample: Sample, view: View | None = None) -> Tensor:
        return self.blocks(*self.inputs(sample), view.kept if view else None) * sample.cond.free(sample.x0)

    def skip_each(
        self, sample: Sample, kept: Mapping[str, tuple[int, ...]] | None = None
    ) -> Iterator[tuple[tuple[str, int] | None, Tensor]]:
        kept = kept or {s: tuple(range(len(w))) for s, w in self.weights.items()}
        yield None, self.velocity(sample, View(kept))
        for stack, indices in kept.items():
            for i in indices:
                rest = {**kept, stack: tuple(k for k in indices if k != i)}
                yield (stack, i), self.velocity(sample, View(rest))

    def parameters_of(self, stack: str, block: int) -> Iterator[Tensor]:
        return iter(self.blocks.stacks[stack][block].parameters())  # type: ignore[index]

    def each_block(
        self, sample: Sample, measure: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[tuple[str, int], Tensor]:  # fmt: skip
        walked = self.blocks.walk(*self.inputs(sample), None)
        return {block: measure(before.flatten(1, 3), after.flatten(1, 3)) for block, before, after in walked}

    def gate_gradients(
        self, sample: Sample, loss: Callable[[Sample, Tensor], Tensor]
    ) -> dict[tuple[str, int], Tensor]:  # fmt: skip
        keys = [(s, i) for s, w in self.weights.items() for i in range(len(w))]
        gates = {key: torch.ones(len(sample.t), requires_grad=True) for key in keys}
        v = self.blocks(*self.inputs(sample), None, gates) * sample.cond.free(sample.x0)
        return dict(zip(keys, torch.autograd.grad(loss(sample, v).sum(), list(gates.values())), strict=True))

    def cross_frame_attention(self, sample: Sample, queries: int) -> dict[tuple[str, int], Tensor]:
        """Shares of the right kind, for two heads, that grow with what a block adds: these blocks mix no tokens."""
        assert queries >= 1
        return self.each_block(sample, lambda before, after: (after - before).abs().mean(2).tanh()[:, :2])


STACKS = {"one stack": {"blocks": 6}, "two stacks": {"first": 4, "second": 5}}


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("stacks", STACKS.values(), ids=list(STACKS))
@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_a_plan_fits_the_budget(kind, name, stacks, keep):
    model = TinyPrunable(stacks)
    budget = Budget(keep, model.weights, model.ffn)
    plan = create(kind, name).plan(model, make_samples, budget)
    assert list(plan.kept) == list(model.weights) and list(plan.scores) == list(model.weights)
    for stack, blocks in plan.kept.items():
        assert isinstance(blocks, tuple) and list(blocks) == sorted(set(blocks)), "ascending, each once"
        assert all(0 <= i < stacks[stack] for i in blocks)
        assert len(plan.scores[stack]) == stacks[stack]
        assert all(isinstance(s, float) and s == s for s in plan.scores[stack]), "numbers that plan.json can hold"
    assert budget.fits(plan.kept, plan.channels)
    check_channels(plan.channels, model)
    assert all(plan.kept.values()), "an empty network is no network"
    if keep == 1:
        assert plan.kept == {s: tuple(range(n)) for s, n in stacks.items()}, "nothing has to go"


@pytest.mark.parametrize("stacks", STACKS.values(), ids=list(STACKS))
@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_no_block_that_goes_has_a_higher_score_than_one_that_stays(kind, name, stacks):
    """But for the last one of a stack, which has to stay."""
    model = TinyPrunable(stacks)
    plan = create(kind, name).plan(model, make_samples, Budget(0.5, model.weights, model.ffn))
    scores = {(s, i): score for s, values in plan.scores.items() for i, score in enumerate(values)}
    kept = {(s, i) for s, blocks in plan.kept.items() for i in blocks}
    gone = [scores[block] for block in scores.keys() - kept]
    free = [scores[s, i] for s, i in kept if len(plan.kept[s]) > 1]
    assert free and max(gone, default=-math.inf) <= min(free)


@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_a_block_that_hardly_does_anything_goes_first_and_one_that_does_much_stays(kind, name):
    """In a network that is nearly right about its clips, so that what a block does is of use. Pruners that ask nothing
    of the network score both alike, and keep the same."""
    plans = {}
    for idle, busy in ((1, 4), (4, 1)):
        model = TinyPrunable({"blocks": 6})
        for i, block in enumerate(model.blocks.stacks["blocks"]):
            for p in block.parameters():
                p.mul_({idle: 1e-3, busy: 3.0}.get(i, 1.0))
        budget = Budget(0.5, model.weights, model.ffn)
        plans[idle, busy] = create(kind, name).plan(model, lambda count, m=model: nearly_right(m, count), budget)
    if plans[1, 4].scores == plans[4, 1].scores:
        assert plans[1, 4].kept == plans[4, 1].kept
        return
    for (idle, busy), plan in plans.items():
        assert plan.scores["blocks"][idle] == min(plan.scores["blocks"])
        assert idle not in plan.kept["blocks"] and busy in plan.kept["blocks"]


def nearly_right(model: TinyPrunable, count: int) -> Iterator[Sample]:
    """Clips whose x1 - x0 is the network's velocity at their x_t, up to noise of .1."""
    g = torch.Generator().manual_seed(1)
    for s in make_samples(count):
        s = replace(s, cond=replace(s.cond, first=None, given=None))
        t, v = s.t.view(-1, 1, 1, 1, 1), model.velocity(s)
        x_t, v = noised(s.x0, s.x1, s.t), v + 0.1 * torch.randn(v.shape, generator=g)
        yield replace(s, x0=x_t - t * v, x1=x_t + (1 - t) * v)


def check_channels(channels: Any, model: TinyPrunable) -> None:
    for stack, blocks in (channels or {}).items():
        total, _ = model.ffn[stack]
        assert len(blocks) == len(model.weights[stack]) and len({len(b) for b in blocks}) == 1, "one ffn_dim"
        assert all(list(b) == sorted(set(b)) and b[0] >= 0 and b[-1] < total for b in blocks)


@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_a_plan_is_repeatable_and_leaves_the_model_as_it_is(kind, name):
    """flc never seeds the global generators, so a plan that reads them would not be repeated by a lock file."""
    model = TinyPrunable({"blocks": 6})
    before = {n: p.clone() for n, p in model.blocks.named_parameters()}
    plans = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plans.append(create(kind, name).plan(model, make_samples, Budget(0.5, model.weights, model.ffn)))
    assert plans[0].kept == plans[1].kept and plans[0].scores == plans[1].scores
    assert all(torch.equal(p, before[n]) for n, p in model.blocks.named_parameters())
