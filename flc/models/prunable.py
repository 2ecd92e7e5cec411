"""A loaded transformer as a pruner sees it (`flc.api.PrunableModel`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flc.api import Kept, Sample, View
from flc.flow import noised
from flc.losses import tweedie_error
from flc.models.channels import channel_size
from flc.models.spread import Spread
from flc.models.view import Gated, Inject, Measured, Sweep, blocks_of, exchanged, view


def grad(gated: Gated) -> Tensor:
    assert gated.gate.grad is not None
    return gated.gate.grad.flatten().float()


class Prunable:
    """A network of an adapter, the original or a trained one. `evaluations` counts block forwards of a batch, for the
    record."""

    def __init__(
        self,
        adapter: Any,
        transformer: Any,
        checkpointing: bool = False,
        spread: Spread | None = None,
        sigmas: Sequence[float] = (),
    ) -> None:
        """`checkpointing`: blocks are computed again in a backward, which a large network's activations ask for;
        `spread`: ranks that share the clips of each batch; `sigmas`: the few-step student's times."""
        self.sigmas = sigmas
        self.adapter, self.transformer, self.evaluations = adapter, transformer, 0
        self.checkpointing, self.spread = checkpointing, spread or Spread()

    def stack(self, name: str) -> list[nn.Module]:
        return blocks_of(self.transformer, name)

    @property
    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {s: tuple(sum(p.numel() for p in b.parameters()) for b in self.stack(s)) for s in self.adapter.stacks}

    @property
    def full(self) -> dict[str, tuple[int, ...]]:
        return {s: tuple(range(len(self.stack(s)))) for s in self.adapter.stacks}

    @property
    def ffn(self) -> dict[str, tuple[int, int]]:
        """Per stack, channels of a block's feed-forward layer and parameters that each stands for."""
        return {s: channel_size(self.feed_forward(s, 0)) for s in self.adapter.ffn}

    def feed_forward(self, stack: str, block: int) -> nn.Module:
        return self.adapter.feed_forward(self.stack(stack)[block])

    def parameters_of(self, stack: str, block: int) -> Iterator[Tensor]:
        return iter(self.stack(stack)[block].parameters())

    @torch.no_grad()
    def velocity(self, sample: Sample, chosen: View | None = None) -> Tensor:
        kept = self.full if chosen is None or chosen.kept is None else chosen.kept
        self.evaluations += sum(map(len, kept.values()))
        with view(self.transformer, kept):
            return self._call(sample)

    def x0_error(self, samples: Iterable[Sample], chosen: View | None = None) -> float:
        """E || x_t - t v(x_t, t) - x_0 ||^2 (FastLightGen Eq 4) of a view, mean over clips."""
        parts = []
        for s in samples:
            x_t = noised(s.x0, s.x1, s.t)
            parts.append(tweedie_error(x_t, self.velocity(s, chosen), s.t, s.x0, s.cond.free(s.x0)))
        return float(torch.cat(parts).double().mean())

    def _call(self, sample: Sample) -> Tensor:
        own, _ = self.spread.own(sample)
        return self.spread.whole(self._alone(own), len(sample.t))

    def _alone(self, s: Sample) -> Tensor:
        x_t = noised(s.x0, s.x1, s.t)
        return self.adapter.velocity(self.transformer, self.transformer, x_t, s.t, s.cond)

    @torch.no_grad()
    def skip_each(self, sample: Sample, kept: Kept | None = None) -> Iterator[tuple[tuple[str, int] | None, Tensor]]:
        """One sweep over each stack: every block's weights are touched once a batch (see `Sweep`). What a variant of a
        later stack has behind it is in its state: the stacks before it are left out of its call.

        Nothing is exchanged while the caller has a velocity: it may use the model meanwhile, or leave the loop."""
        kept = self.full if kept is None else kept
        before: dict[str, tuple[int, ...]] = {}
        for stack, indices in kept.items():
            after = sum(map(len, kept.values())) - sum(map(len, before.values())) - len(indices)
            sweep = Sweep([self.stack(stack)[i] for i in indices])
            whole = self._call_on(sample, kept, stack, sweep)
            self.evaluations += sum(map(len, before.values())) + sweep.evaluations + after
            if not before:
                yield None, whole
            behind = {**kept, **dict.fromkeys(before, ())}
            for index, state in zip(indices, sweep.variants, strict=True):
                self.evaluations += after
                yield (stack, index), self._call_on(sample, behind, stack, Inject(state))
            before[stack] = indices

    def _call_on(self, sample: Sample, kept: Kept, stack: str, block: nn.Module) -> Tensor:
        """The velocity of a view in which one block stands for a whole stack."""
        with view(self.transformer, kept), exchanged(self.transformer, stack, [block]):
            return self._call(sample)

    @torch.no_grad()
    def each_block(
        self, sample: Sample, measure: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[tuple[str, int], Tensor]:  # fmt: skip
        own, _ = self.spread.own(sample)
        stacks = {s: [Measured(block, measure) for block in self.stack(s)] for s in self.full}
        with self._exchanged(stacks):
            self._alone(own)
        self.evaluations += sum(map(len, stacks.values()))
        values = {(s, i): block.value for s, blocks in stacks.items() for i, block in enumerate(blocks)}
        return {key: self.spread.whole(value, len(sample.t)) for key, value in values.items()}

    def gate_gradients(
        self, sample: Sample, loss: Callable[[Sample, Tensor], Tensor]
    ) -> dict[tuple[str, int], Tensor]:  # fmt: skip
        """One forward and one backward for all gates."""
        own, _ = self.spread.own(sample)
        stacks = {s: [Gated(block, len(own.t), own.x0.device) for block in self.stack(s)] for s in self.full}
        with self._checkpointed(), self._exchanged(stacks):
            loss(own, self._alone(own)).sum().backward()
        self.evaluations += 3 * sum(map(len, stacks.values()))  # a backward costs two forwards
        gates = {(s, i): grad(g) for s, gated in stacks.items() for i, g in enumerate(gated)}
        return {key: self.spread.whole(gradient, len(sample.t)) for key, gradient in gates.items()}

    @contextmanager
    def _exchanged(self, stacks: Mapping[str, Sequence[nn.Module]]) -> Iterator[None]:
        with ExitStack() as exchanges:
            for stack, blocks in stacks.items():
                exchanges.enter_context(exchanged(self.transformer, stack, blocks))
            yield

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        if self.checkpointing:
            self.transformer.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if self.checkpointing:
                self.transformer.disable_gradient_checkpointing()

    @contextmanager
    def gradients(self, samples: Iterable[Sample], loss: Callable[[Sample, Tensor], Tensor]) -> Iterator[None]:
        parameters = [p for s in self.full for b in self.stack(s) for p in b.parameters()]
        try:
            for p in parameters:
                p.requires_grad_(True)
            with self._checkpointed():
                for sample in samples:
                    own, counting = self.spread.own(sample)
                    loss(own, self._alone(own))[:counting].sum().backward()
                    self.evaluations += 3 * sum(map(len, self.full.values()))  # a backward costs two forwards
            self.spread.add_gradients(parameters)
            yield
        finally:
            for p in parameters:
                p.requires_grad_(False).grad = None

    @torch.no_grad()
    def cross_frame_attention(self, sample: Sample, queries: int) -> dict[tuple[str, int], Tensor]:
        """The forward pass is the stock one; the adapter's recorder recomputes q and k beside it."""
        own, _ = self.spread.own(sample)
        with self.adapter.recording_attention(sample.x0.shape[2], queries) as shares:
            self._alone(own)
        self.evaluations += sum(map(len, self.full.values()))
        return {key: self.spread.whole(share, len(sample.t)) for key, share in shares.items()}

    @torch.no_grad()
    def skip_each_naively(self, sample: Sample) -> Iterator[tuple[tuple[str, int] | None, Tensor]]:
        """The same by one whole forward for each variant; what the sweep is measured against."""
        yield None, self.velocity(sample)
        for stack, indices in self.full.items():
            for index in indices:
                kept = dict(self.full) | {stack: tuple(i for i in indices if i != index)}
                yield (stack, index), self.velocity(sample, View(kept))
