"""What every registered recovery trainer and distiller keeps: roles, phases, losses, draws."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from flc.api import Batch, Setting, View
from flc.draws import StepDraws
from flc.models.condition import Condition
from flc.registry import create

from .common import B, Blocks, C, F, H, W, make_condition, of_kind

# -- objectives: recovery and distillers -----------------------------------------------------------------------

OBJECTIVES = of_kind("recovery", "distiller")
FULL, PRUNED = View({"blocks": (0, 1, 2, 3, 4, 5)}), View({"blocks": (0, 2, 5)})
STEPS = 200  # iterations in which every phase must have had its turn: warm-ups of the defaults are shorter


def bound(kind: str, name: str) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flc.schedule import FewStepSchedule

    objective = create(kind, name)
    schedule = None
    if kind == "distiller":
        shift = objective.shift() or 3.0
        schedule = FewStepSchedule(
            FlowMatchEulerDiscreteScheduler(shift=shift), 4, shift=shift, sampler=objective.sampler()
        )
    return objective.bind(Setting(PRUNED, FULL, 4, STEPS, schedule))


class TinyNet:
    """`flc.api.Net`. `asked`: the blocks that each call with a gradient is of."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, blocks: Blocks, kept: Any) -> None:
        self.blocks, self.kept = blocks, kept

    def __call__(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None) -> Tensor:
        assert x.shape[1:] == (C, F, H, W) and t.shape == (len(x),), "the interface of flc.api.Net"
        assert ((t >= 0) & (t <= 1)).all()
        if torch.is_grad_enabled():
            self.asked.append(self.kept if view is None else view.kept)
        return self.blocks(cond.clamp(x), t, cond.text, self.kept if view is None else view.kept) * cond.free(x)

    def features(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[float], view: View | None = None
    ) -> list[Tensor]:
        assert list(depths) == sorted(set(depths)) and depths[0] > 0 and depths[-1] <= 1
        kept = self.kept if view is None else view.kept
        hidden = [after.flatten(2, 3) for _, _, after in self.blocks.walk(cond.clamp(x), t, cond.text, kept)]
        return [hidden[max(1, round(depth * len(hidden))) - 1] for depth in depths]


class TinyNets:
    """`flc.api.Nets`: one small network per role, a role's own blocks only, and a fixed teacher.

    As in the core, a module of a `full` role holds its view's blocks, other roles hold all of them.
    """

    def __init__(self, roles: Mapping[str, Any]) -> None:
        self.modules = {
            name: role.head(C).requires_grad_(False) if role.train == "head" else Blocks({"blocks": 6})
            for name, role in roles.items()
        }
        for i, module in enumerate(self.modules.values()):  # roles differ, as they do after the first update
            for p in module.requires_grad_(False).parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        self.roles = roles
        self.real = Blocks({"blocks": 6}).requires_grad_(False)

    def activate(self, role: str) -> None:
        for name, module in self.modules.items():
            module.requires_grad_(name == role)

    def __getitem__(self, role: str) -> TinyNet:
        assert self.roles[role].train != "head", "a head is no velocity field: nets.head(role)"
        own = self.roles[self.roles[role].of or role]
        return TinyNet(self.modules[role], own.view.kept)

    def head(self, role: str) -> nn.Module:
        assert self.roles[role].train == "head"
        return self.modules[role]

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.real(cond.clamp(x), t, cond.text, None) * cond.free(x)


def make_batch(image: bool) -> Batch:
    x0 = torch.randn(B, C, F, H, W, generator=torch.Generator().manual_seed(4))
    cond = make_condition(image=image)
    return Batch(x0, replace(cond, first=x0[:, :, :1]) if image else cond)


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_roles_include_the_student_and_say_how_they_are_trained(kind, name):
    objective = bound(kind, name)
    roles = objective.roles()
    assert "student" in roles
    for role in roles.values():
        assert role.train in ("full", "lora", "frozen", "head", "follow") and 0 <= role.ema < 1
        assert not (role.train in ("frozen", "follow") and role.optim), "it has no optimizer"
        assert role.train != "lora" or role.rank >= 1
        assert (role.train == "head") == (role.head is not None)
        assert (role.train == "follow") == bool(role.of)
        assert not role.of or roles[role.of].train == "full", "what follows has a copy of its own to move"
    if kind == "distiller":
        assert roles["student"].view == PRUNED, "what stage III hands on is the pruned network"
        assert objective.sampler() in ("sde", "ode")
    else:
        assert roles["student"].view in (FULL, View()), "stage II trains the whole network, with blocks still to go"


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_phases_name_trainable_roles_and_each_gets_its_turn(kind, name):
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        return
    roles, seen = objective.roles(), set()
    for step in range(STEPS):
        phases = objective.phases(step)
        assert phases and len(phases) == len(set(phases))
        assert phases == objective.phases(step), "a resumed run asks again"
        for phase in phases:
            assert roles[phase].optim is not None, phase
        seen |= set(phases)
    assert seen == {n for n, r in roles.items() if r.optim}, "a trained role that is never updated, or the reverse"


def first_steps(objective: Any) -> dict[str, int]:
    """The first iteration in which each phase comes."""
    first: dict[str, int] = {}
    for step in range(STEPS):
        for phase in objective.phases(step):
            first.setdefault(phase, step)
    return first


@pytest.mark.parametrize("image", [False, True], ids=["text", "given frame"])
@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_each_phase_has_a_finite_loss_that_moves_its_role_only(kind, name, image):
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        with pytest.raises(AssertionError):
            objective.loss("student", None, make_batch(image), 0, StepDraws(0, "test", 0))
        return
    nets = TinyNets(objective.roles())
    for phase, step in first_steps(objective).items():
        nets.activate(phase)
        loss = objective.loss(phase, nets, make_batch(image), step, StepDraws(0, "test", step))
        assert loss.value.ndim == 0 and torch.isfinite(loss.value), phase
        assert loss.value.requires_grad, phase
        assert all(float(v) == float(v) for v in loss.metrics.values()), loss.metrics
        loss.value.backward()
        for role, module in nets.modules.items():
            norm = sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
            assert (norm > 0) == (role == phase), f"phase {phase}: gradient {norm} into {role}"
            module.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_a_loss_is_a_function_of_its_draws(kind, name):
    """An exact resume repeats an iteration from (seed, step) alone, so nothing may come from the global generator."""
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        return
    nets = TinyNets(objective.roles())
    for phase, step in first_steps(objective).items():
        values = []
        for seed, drawn in ((0, step), (1, step), (1, step + 1)):
            torch.manual_seed(seed)
            nets.activate(phase)
            values.append(objective.loss(phase, nets, make_batch(True), step, StepDraws(0, "test", drawn)).value.item())
        assert values[0] == values[1], "the same draws"
        assert values[0] != values[2], "other draws: the loss does use them"


@pytest.mark.parametrize("name", [name for kind, name in OBJECTIVES if kind == "recovery"])
def test_a_recovery_that_says_how_often_it_trains_the_pruned_network_does(name):
    """Counted over its iterations, within 4.5 standard errors of independent draws."""
    objective = bound("recovery", name)
    said = objective.pruned_iterations()
    if said is None or not objective.trains:
        return
    nets, batch, counted = TinyNets(objective.roles()), make_batch(False), 0
    nets.activate("student")
    for step in range(STEPS):
        TinyNet.asked.clear()
        objective.loss("student", nets, batch, step, StepDraws(0, "test", step))
        counted += PRUNED.kept in TinyNet.asked
    share = said / STEPS
    assert 0 <= share <= 1 and counted == pytest.approx(said, abs=4.5 * (STEPS * share * (1 - share)) ** 0.5 + 1e-6)


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_a_head_is_made_from_its_width_and_torchs_generator_alone(kind, name):
    """The core seeds that generator, so that every rank and every start has the same head."""
    for role in bound(kind, name).roles().values():
        if role.train != "head":
            continue
        made = []
        for _ in range(2):
            torch.manual_seed(0)
            made.append(role.head(2 * C).state_dict())
        assert made[0] and all(torch.equal(made[0][n], v) for n, v in made[1].items())
