"""The networks of an objective: built from the incoming weights by role, and called by role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flc.api import Draws, Kept, Query, Role, TeacherComposer, View
from flc.errors import PluginError, UserError
from flc.models.condition import Condition, join
from flc.models.view import (
    Inject,
    State,
    Tapped,
    blocks_at,
    blocks_of,
    exchanged,
    hidden_of,
    removed,
    split,
    stacked,
    view,
)  # fmt: skip
from flc.train.evaluations import BlockEvaluations

ADAPTER = "flc"
#: What engines call the incoming weights as the teacher evaluates them: no role's name.
TEACHER = "(teacher)"
#: The unpruned network where it is no view of the incoming weights: they are narrower, or no longer the original's.
UNPRUNED = "(unpruned)"


def build(
    adapter: Any, source: nn.Module, roles: Mapping[str, Role], seed: int = 0, unpruned: nn.Module | None = None
) -> dict[str, nn.Module]:
    """One module per role. `full` roles get a copy holding only their view's blocks, a `follow` role the copy of
    the role it follows, a `head` role its own module; `frozen` and `lora` roles share the incoming module itself,
    but `frozen` ones of all blocks hold the network that is given as `unpruned`.
    Every parameter comes out with `requires_grad=False`."""
    source.requires_grad_(False)
    full = {stack: tuple(range(len(blocks_of(source, stack)))) for stack in adapter.stacks}
    modules: dict[str, nn.Module] = {}
    for name, role in roles.items():
        copied = roles[role.of] if role.train == "follow" else role
        assert role.train != "follow" or copied.train == "full", f"{name!r} can follow a full role only"
        if copied.train == "full":
            modules[name] = adapter.prepare(removed(source, copied.view.kept, adapter.stacks))
        elif role.train == "head":
            modules[name] = make_head(role, adapter.width(source), seed).to(adapter.device)
    for name, role in roles.items():
        if role.train == "lora":
            add_lora(source, [name for name, _ in lora_layers(adapter, source)], role.rank, seed)
        modules.setdefault(name, unpruned if unpruned is not None and is_unpruned(role, full) else source)
    return modules


def is_unpruned(role: Role, full: Kept) -> bool:
    """Whether a role is the frozen network with all its blocks."""
    return role.train == "frozen" and (role.view.kept is None or dict(role.view.kept) == dict(full))


def make_head(role: Role, width: int, seed: int) -> nn.Module:
    assert role.head is not None, "a head role says how its module is made"
    with torch.random.fork_rng(devices=[]):  # the same on every rank and at every start
        torch.manual_seed(seed)
        return role.head(width).requires_grad_(False)


def lora_layers(adapter: Any, module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers that a LoRA adapter goes on, in every block, by their names in `module`."""
    for stack in adapter.stacks:
        for index, block in enumerate(blocks_of(module, stack)):
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear) and f".{name}".endswith(tuple(f".{end}" for end in adapter.lora)):
                    yield f"{stack}.{index}.{name}", layer


def add_lora(module: Any, layers: list[str], rank: int, seed: int) -> None:
    """A fresh low-rank branch (alpha = rank, so the scale of a view's adapter is the branch's own)."""
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    with torch.random.fork_rng(devices=[]):  # its first matrix is random: the same on every rank and at every start
        torch.manual_seed(seed)
        module.add_adapter(config, adapter_name=ADAPTER)
    module.requires_grad_(False)


def trainable(module: nn.Module, role: Role) -> dict[str, nn.Parameter]:
    """The parameters of a role, by name."""
    if role.train in ("frozen", "follow"):
        return {}
    return {n: p for n, p in module.named_parameters() if role.train != "lora" or "lora_" in n}


@contextmanager
def adapter_scale(module: nn.Module, scale: float) -> Iterator[None]:
    """Multiply the low-rank branch by `scale` during one call, then put it back to 1.

    The resting scale is 1, the trained role's: a checkpointed block recomputed in a backward meets it again. At
    another scale it would not, so such a call keeps its activations.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [m for m in module.modules() if isinstance(m, BaseTunerLayer)]
    checkpointing: Any = getattr(module, "gradient_checkpointing", False)
    module.gradient_checkpointing = checkpointing and scale == 1.0  # type: ignore[assignment]
    for layer in layers:
        layer.scaling[ADAPTER] = scale
    try:
        yield
    finally:
        module.gradient_checkpointing = checkpointing
        for layer in layers:
            layer.scaling[ADAPTER] = 1.0


class RoleNet:
    """A velocity field by role: `net(x_t, t, cond, view)`.

    A `full` role's module holds its view's blocks only, so `View()` is all of it; roles on the incoming
    weights default to the role's view.
    """

    def __init__(self, adapter: Any, module: nn.Module, call: Any, default: View) -> None:
        self.adapter, self.module, self.call, self.default = adapter, module, call, default
        self.has_adapter = hasattr(module, "peft_config")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition, given: View | None = None, /) -> Tensor:
        chosen = self.default if given is None else given
        with view(self.module, chosen.kept):
            return self.raw(x, t, cond, chosen.adapter)

    def raw(self, x: Tensor, t: Tensor, cond: Condition, scale: float = 0.0) -> Tensor:
        """Whatever blocks the module holds at the moment."""
        if not self.has_adapter:
            return self.adapter.velocity(self.call, self.module, x, t, cond)
        with adapter_scale(self.module, scale):
            return self.adapter.velocity(self.call, self.module, x, t, cond)

    def features(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[float], given: View | None = None, /
    ) -> list[Tensor]:
        """`flc.api.Net.features`: what leaves some blocks, counted over the stacks in their order."""
        chosen = self.default if given is None else given
        with ExitStack() as exchanges:
            exchanges.enter_context(view(self.module, chosen.kept))
            stacks = {stack: blocks_of(self.module, stack) for stack in self.adapter.stacks}
            count = sum(map(len, stacks.values()))
            wanted, taps, before = blocks_at(depths, count), [], 0
            for stack, blocks in stacks.items():
                run: list[nn.Module] = []
                for number, block in enumerate(blocks[: max(0, max(wanted) - before)], before + 1):
                    run.append(Tapped(block) if number in wanted else block)
                taps += [block for block in run if isinstance(block, Tapped)]
                exchanges.enter_context(exchanged(self.module, stack, run))
                before += len(blocks)
            self.raw(x, t, cond, chosen.adapter)
        return [self.adapter.by_frame(hidden_of(tap.after), x.shape[2]) for tap in taps]


class Teacher:
    """Evaluates what a composer needs at the least cost, then composes.

    Queries of one view go in one batch. The unpruned network starts from the hidden states that entered the
    first removed block of the pruned one, where both see the same condition; unless it is a network of its own.
    """

    def __init__(self, net: RoleNet, composer: TeacherComposer, pruned: View, unpruned: RoleNet | None = None) -> None:
        self.net, self.composer, self.pruned, self.unpruned = net, composer, pruned, unpruned
        self.share_prefix = True

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, cond: Condition, rng: Draws) -> Tensor:
        found = self.composer.compose(self.evaluate(x, t, cond), rng)
        if found.shape != x.shape:  # a single number would be taken for every pixel's velocity
            place = f"{type(self.composer).__module__}.{type(self.composer).__qualname__}"
            raise PluginError(f"{place}.compose(...) is of shape {tuple(found.shape)}, not {tuple(x.shape)} as x_t")
        return found

    @torch.no_grad()
    def evaluate(self, x: Tensor, t: Tensor, cond: Condition) -> dict[Query, Tensor]:
        needs = list(dict.fromkeys(self.composer.needs()))
        out: dict[Query, Tensor] = {}
        for scale in dict.fromkeys(q.adapter for q in needs):
            out |= self._of_one_scale([q for q in needs if q.adapter == scale], x, t, cond)
        return out

    def _of_one_scale(self, needs: list[Query], x: Tensor, t: Tensor, cond: Condition) -> dict[Query, Tensor]:
        groups = [[q for q in needs if q.view == name] for name in ("pruned", "unpruned")]
        out: dict[Query, Tensor] = {}
        prefix: dict[str, State] | None = None
        for group in filter(None, groups):
            kept = self.pruned.kept if group[0].view == "pruned" else None
            stack = self._shared_stack()
            if group[0].view == "unpruned" and prefix and stack and all(q.condition in prefix for q in group):
                v = self._suffix(group, x, t, cond, prefix, stack)
            else:
                tap = stack if group[0].view == "pruned" and all(groups) else None
                v, prefix = self._whole(group, x, t, cond, kept, tap)
            out |= dict(zip(group, v.chunk(len(group)), strict=True))
        return out

    def _shared_stack(self) -> str | None:
        """The stack whose prefix both views share: there is one stack, and its first block stays."""
        kept = self.pruned.kept or {}
        if not self.share_prefix or self.unpruned is not None or len(kept) != 1:
            return None
        (stack, blocks), total = next(iter(kept.items())), len(blocks_of(self.net.module, next(iter(kept))))
        return stack if first_removed(blocks, total) else None

    def _inputs(self, group: list[Query], x: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor, Condition]:
        n = len(group)
        conds = [cond if q.condition == "text" else cond.without_text() for q in group]
        return x.repeat(n, 1, 1, 1, 1), t.repeat(n), join(conds)

    def _whole(
        self, group: list[Query], x: Tensor, t: Tensor, cond: Condition, kept: Any, stack: str | None
    ) -> tuple[Tensor, dict[str, State] | None]:
        inputs = self._inputs(group, x, t, cond)
        if self.unpruned is not None and group[0].view == "unpruned":
            return self.unpruned.raw(*inputs), None
        with view(self.net.module, kept):
            if stack is None:
                return self.net.raw(*inputs, group[0].adapter), None
            blocks, at = blocks_of(self.net.module, stack), first_removed(kept[stack])
            last = Tapped(blocks[at - 1])
            with exchanged(self.net.module, stack, [*blocks[: at - 1], last, *blocks[at:]]):
                v = self.net.raw(*inputs, group[0].adapter)
        return v, dict(zip((q.condition for q in group), split(last.after, len(group)), strict=True))

    def _suffix(
        self, group: list[Query], x: Tensor, t: Tensor, cond: Condition, prefix: dict[str, State], stack: str
    ) -> Tensor:
        blocks = blocks_of(self.net.module, stack)
        at = first_removed(self.pruned.kept[stack])  # type: ignore[index]
        inject = Inject(stacked([prefix[q.condition] for q in group]))
        with exchanged(self.net.module, stack, [inject, *blocks[at:]]):
            return self.net.raw(*self._inputs(group, x, t, cond), group[0].adapter)


def first_removed(kept: tuple[int, ...], total: int | None = None) -> int:
    """Index of the first block that is not kept; `total` when all are."""
    missing = [i for i in range(total if total is not None else len(kept) + 1) if i not in kept]
    return missing[0] if missing else len(kept)


class RoleNets:
    """`flc.api.Nets`: the networks of one objective, with the teacher bound to an iteration's draws.

    `evaluations` can count what the blocks of all of them do.
    """

    def __init__(
        self,
        nets: Mapping[str, RoleNet],
        teacher: Teacher | None,
        heads: Mapping[str, Callable[..., Tensor]],
        blocks: Sequence[nn.Module] = (),
    ) -> None:
        self._nets, self._teacher, self._heads = nets, teacher, heads
        self.evaluations = BlockEvaluations(blocks)
        self.rng: Draws | None = None

    def __getitem__(self, role: str) -> RoleNet:
        if role not in self._nets:
            raise LookupError(f"there is no network {role!r}: roles() names {', '.join(self._nets)}")
        return self._nets[role]

    def head(self, role: str) -> Callable[..., Tensor]:
        if role not in self._heads:
            raise LookupError(f"there is no head {role!r}: roles() names {', '.join(self._heads) or 'none'}")
        return self._heads[role]

    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self._teacher is None or self.rng is None:
            raise LookupError("this stage has no teacher: stage III alone has one")
        return self._teacher(x, t, cond, self.rng)


def check_teacher(teacher: TeacherComposer, roles: Mapping[str, Role]) -> None:
    """That this teacher finds among an objective's networks what it composes from."""
    leans = any(query.adapter for query in teacher.needs())
    if leans and not any(role.train == "lora" for role in roles.values()):
        raise UserError("this teacher leans on the fake's low-rank branch, and this distiller trains none: "
                        "choose another --teacher, or a distiller with a LoRA fake")  # fmt: skip


def asks_for_unpruned(teacher: TeacherComposer) -> bool:
    return any(query.view == "unpruned" for query in teacher.needs())


def leans_on_unpruned(teacher: TeacherComposer) -> bool:
    return any(query.adapter for query in teacher.needs() if query.view == "unpruned")


def check_apart(teacher: TeacherComposer) -> None:
    """That this teacher can be composed where the unpruned network is one of its own: low-rank branches lie on the
    incoming weights."""
    if leans_on_unpruned(teacher):
        raise UserError("this teacher leans on a low-rank branch of the unpruned network, which is the model's own "
                        "here and has none: choose another --teacher, or --set distill.real=recovered")  # fmt: skip


def connect(
    adapter: Any,
    modules: Mapping[str, nn.Module],
    roles: Mapping[str, Role],
    call: Callable[[str], Any],
    teacher: tuple[TeacherComposer, View] | None,
) -> RoleNets:
    """The modules of `build`, the incoming weights under `TEACHER` and an unpruned network apart from them under
    `UNPRUNED`, as an objective meets them.

    `call(name)` is what is called in a module's place; `teacher` is the composer and the pruned view.
    """
    own = ("full", "follow")  # such a role's module holds its view's blocks and no others
    nets = {
        name: RoleNet(adapter, modules[name], call(name), View() if role.train in own else role.view)
        for name, role in roles.items()
        if role.train != "head"
    }
    heads = {name: call(name) for name, role in roles.items() if role.train == "head"}
    networks = [module for name, module in modules.items() if name not in heads]
    blocks = [block for module in networks for stack in adapter.stacks for block in blocks_of(module, stack)]
    if teacher is None:
        return RoleNets(nets, None, heads, blocks)
    check_teacher(teacher[0], roles)
    real = RoleNet(adapter, modules[TEACHER], call(TEACHER), View())
    whole = None
    if UNPRUNED in modules:
        check_apart(teacher[0])
        whole = RoleNet(adapter, modules[UNPRUNED], call(UNPRUNED), View())
    return RoleNets(nets, Teacher(real, *teacher, whole), heads, blocks)
