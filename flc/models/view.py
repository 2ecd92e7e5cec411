"""Sub-networks as views of one set of weights, and their physical removal.

diffusers' transformers loop over a `ModuleList`. A view exchanges that list, for the length of one call, for
a list of the same block objects: no hooks, no second forward to maintain, parameters shared. Skipping by
view equals removing, bit for bit. (A shallow copy of the model with a list of its own breaks under ZeRO-3.)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flc.api import Kept
from flc.errors import UserError


def blocks_of(model: nn.Module, stack: str) -> list[nn.Module]:
    blocks: Any = model._modules[stack]
    return list(blocks)


@contextmanager
def exchanged(model: nn.Module, stack: str, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Run `model` with another list of blocks under the name `stack`."""
    original = model._modules[stack]
    model._modules[stack] = nn.ModuleList(blocks)
    try:
        yield
    finally:
        model._modules[stack] = original


@contextmanager
def view(model: nn.Module, kept: Kept | None) -> Iterator[None]:
    """Run `model` on the kept blocks of each stack; None keeps all."""
    if not kept:
        yield
        return
    (stack, indices), *rest = kept.items()
    blocks = blocks_of(model, stack)
    with exchanged(model, stack, [blocks[i] for i in indices]), view(model, dict(rest)):
        yield


def blocks_at(depths: Sequence[float], count: int) -> list[int]:
    """After how many of `count` blocks each share of the depth lies; `UserError` where two are the same block."""
    found = [max(1, round(depth * count)) for depth in depths]
    if len(set(found)) < len(found):
        raise UserError(f"depths {list(depths)} fall together on {count} blocks: give fewer")
    return found


State = Tensor | tuple[Tensor, ...]
"""What a block hands on: hidden states, in some families with a text's beside them, the first arguments of the next."""


def parts(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def hidden_of(state: State) -> Tensor:
    """The hidden states of the clip's tokens."""
    return parts(state)[0]


def placed(block: nn.Module, args: tuple[Any, ...], names: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments by position where the block's signature has one for them: some families name all of them, in
    any order, and the state comes first."""
    if not names:
        return args, names
    bound = inspect.signature(block.forward).bind(*args, **names)
    return bound.args, bound.kwargs


def entered(out: State, args: Sequence[Any]) -> State:
    """Of a block's arguments those that it returned as `out`."""
    return tuple(args[: len(out)]) if isinstance(out, tuple) else args[0]


def split(state: State, count: int) -> list[State]:
    """Of a batch that is several one after another, each."""
    chunks = [part.chunk(count) for part in parts(state)]
    return list(zip(*chunks, strict=True)) if isinstance(state, tuple) else list(chunks[0])


def stacked(states: Sequence[State]) -> State:
    """One batch of several."""
    whole = tuple(torch.cat(each) for each in zip(*map(parts, states), strict=True))
    return whole if isinstance(states[0], tuple) else whole[0]


class Tapped(nn.Module):
    """A pseudo-block that runs a block and keeps what entered and what left it."""

    before: State
    after: State

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block  # registered: who asks for all modules of the network during the call finds its layers, too

    def forward(self, *args: Any, **names: Any) -> State:
        args, names = placed(self.block, args, names)
        self.after = self.block(*args, **names)
        self.before = entered(self.after, args)
        return self.after


class Measured(nn.Module):
    """A pseudo-block that runs a block and keeps one measurement of what entered and what left it."""

    value: Tensor

    def __init__(self, block: nn.Module, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.measure = block, measure

    def forward(self, *args: Any, **names: Any) -> State:
        args, names = placed(self.block, args, names)
        out = self.block(*args, **names)
        self.value = self.measure(hidden_of(entered(out, args)), hidden_of(out))
        return out


class Inject(nn.Module):
    """A pseudo-block that stands where a prefix stood and returns what had left that."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    def forward(self, *args: Any, **names: Any) -> State:
        return self.state


class Gated(nn.Module):
    """A pseudo-block h + g (block(h) - h): one gate g per sample, at 1, where the block is untouched."""

    def __init__(self, block: nn.Module, batch: int, device: torch.device) -> None:
        super().__init__()
        self.block = block
        self.gate = torch.ones(batch, 1, 1, device=device, requires_grad=True)

    def forward(self, *args: Any, **names: Any) -> State:
        args, names = placed(self.block, args, names)
        out = self.block(*args, **names)
        pairs = zip(parts(entered(out, args)), parts(out), strict=True)
        gated = tuple(h + self.gate.to(h.dtype) * (new - h) for h, new in pairs)
        return gated if isinstance(out, tuple) else gated[0]


class Sweep(nn.Module):
    """A pseudo-block that runs a whole stack and all its skip-one variants, touching each block once.

    Skip-i shares its prefix with the whole network, so variants are born as the walk reaches them:
    N + N(N-1)/2 block evaluations instead of N + N(N-1). Variants are looped over, not batched, which keeps
    each bit-identical to running it alone.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = blocks  # plain attribute: the blocks stay registered where they are
        self.variants: list[State] = []
        self.evaluations = 0

    def forward(self, *args: Any, **names: Any) -> State:
        self.variants = []
        for block in self.blocks:
            args, names = placed(block, args, names)
            out = block(*args, **names)
            state = entered(out, args)
            rest = args[len(parts(state)) :]
            self.variants = [block(*parts(v), *rest, **names) for v in self.variants]
            self.variants.append(state)
            self.evaluations += len(self.variants)
            args = (*parts(out), *rest)
        return out


def removed(model: nn.Module, kept: Kept | None, depth_fields: dict[str, str]) -> nn.Module:
    """A copy of `model` (a diffusers model) without the other blocks, its config's depth fields corrected.

    The copy's state dict is keyed contiguously, so stock `from_pretrained` reads what `save_pretrained` writes
    with no missing and no unexpected key. (Changing the depth field alone silently keeps the first blocks.)
    """
    with view(model, kept):
        copied: Any = copy.deepcopy(model)
    for stack, indices in (kept or {}).items():
        copied.register_to_config(**{depth_fields[stack]: len(indices)})
    return copied
