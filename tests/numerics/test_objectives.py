"""The objectives themselves on networks whose velocities are known exactly: which term has which sign and weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flc.api import Batch, Setting, View
from flc.draws import StepDraws
from flc.flow import shifted
from flc.models.condition import Condition
from flc.registry import create

FULL, PRUNED = View({"blocks": (0, 1, 2, 3)}), View({"blocks": (0, 3)})
SHAPE = (1, 2, 1, 1)  # C, F, H, W
Velocity = Callable[[Tensor, Tensor], Tensor]


class Gaussian(nn.Module):
    """Velocity field of a noised N(m, s^2) per element, E[x1 - x0 | x_t]; m and log s are its parameters."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(math.log(std)))
        self.asked: list[tuple[Tensor, View | None]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None) -> Tensor:
        self.asked.append((t, view))
        t, variance = t.view(-1, 1, 1, 1, 1), self.log_std.exp() ** 2
        at = (1 - t) * self.mean
        x0 = self.mean + (1 - t) * variance / ((1 - t) ** 2 * variance + t**2) * (x - at)
        return (x - x0) / t.clamp(min=1e-6)


class Nets(dict):
    """Networks by role, and a teacher of the same kind."""

    def __init__(self, teacher: Gaussian | None = None, **roles: nn.Module) -> None:
        super().__init__(roles)
        self.real = teacher

    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert self.real is not None
        with torch.no_grad():
            return self.real(x, t, cond)


def condition(batch: int) -> Condition:
    return Condition(torch.zeros(batch, 1, 4), torch.zeros(1, 1, 4))


def schedule(sampler: str = "sde", steps: int = 4) -> Any:
    sigmas = tuple(shifted(torch.arange(steps, 0, -1) / steps, 3.0).tolist())
    return SimpleNamespace(steps=steps, shift=3.0, sampler=sampler, sigmas=(*sigmas, 0.0))


def dmd(**options: Any) -> Any:
    objective = create("distiller", "dmd", options)
    return objective.bind(Setting(PRUNED, FULL, 4, 100, schedule(objective.sampler())))


def batch_of(x0: Tensor) -> Batch:
    return Batch(x0, condition(len(x0)))


def draws(step: int = 0) -> StepDraws:
    return StepDraws(0, "test", step)


# -- distribution matching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("sampler", ["sde", "ode"])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_generators_step_goes_to_the_teachers_distribution(side, sampler, normalise):
    """G makes N(0, 1), the fake knows it, the teacher's is N(side, 1): a gradient step must move G's mean to `side`.
    Swapped velocities, or one sign wrong, move it the other way."""
    student = Gaussian(0.0, 1.0)
    nets = Nets(Gaussian(side, 1.0), student=student, fake=Gaussian(0.0, 1.0).requires_grad_(False))
    objective = dmd(sampler=sampler, normalise=normalise)
    objective.loss("student", nets, batch_of(torch.zeros(256, *SHAPE)), 0, draws()).value.backward()
    assert student.mean.grad is not None and float(student.mean.grad) * side < 0
    assert all(p.grad is None for p in nets["fake"].parameters())


@pytest.mark.parametrize("normalise", [False, True])
def test_where_teacher_and_fake_agree_the_generator_stays(normalise):
    student, same = Gaussian(0.3, 0.5), Gaussian(-0.7, 1.0).requires_grad_(False)
    nets = Nets(same, student=student, fake=Gaussian(-0.7, 1.0).requires_grad_(False))
    dmd(normalise=normalise).loss("student", nets, batch_of(torch.zeros(16, *SHAPE)), 0, draws()).value.backward()
    assert float(student.mean.grad) == float(student.log_std.grad) == 0.0


def test_the_generators_gradient_is_the_closed_form():
    """One step at t = 1 from pure noise: x0_hat is the student's mean whatever the noise, so dG/dmean = 1, and
    E[x0_fake - x0_real] = (mu - m) t^2 / ((1-t)^2 + t^2) at the one time that shift and clamp leave."""
    mu, m, t = 0.8, -0.3, 0.6
    student = Gaussian(mu, 1.0)
    nets = Nets(Gaussian(m, 1.0), student=student, fake=Gaussian(mu, 1.0).requires_grad_(False))
    objective = create("distiller", "dmd", {"normalise": False, "time_min": t, "time_max": t})
    objective.bind(Setting(PRUNED, FULL, 1, 100, schedule(steps=1)))
    objective.loss("student", nets, batch_of(torch.zeros(64, *SHAPE)), 0, draws()).value.backward()
    # the difference of the two x0 predictions does not depend on x_t: no sampling error, float32 only
    assert float(student.mean.grad) == pytest.approx((mu - m) * t**2 / ((1 - t) ** 2 + t**2), rel=1e-4)


def test_the_fakes_step_goes_to_the_generators_distribution():
    """A fake that believes in N(0, 1) raises its mean where G makes N(2, 1), and narrows where G makes N(0, .5)."""
    for mean, std, parameter, sign in ((2.0, 1.0, "mean", -1), (-2.0, 1.0, "mean", 1), (0.0, 0.5, "log_std", 1)):
        fake = Gaussian(0.0, 1.0)
        nets = Nets(Gaussian(-9.0, 1.0), student=Gaussian(mean, std).requires_grad_(False), fake=fake)
        dmd().loss("fake", nets, batch_of(torch.zeros(512, *SHAPE)), 0, draws()).value.backward()
        assert float(getattr(fake, parameter).grad) * sign > 0, (mean, std)


@pytest.mark.parametrize("clean", [2.0, -1.0])
def test_a_fake_that_is_right_beats_its_neighbours(clean):
    """The regression's optimum is the analytic velocity of G's outputs: every exit step of an exact generator of
    N(clean, tiny) gives `clean`, and the loss is least at the mean `clean`."""
    losses = []
    for mean in (clean - 0.3, clean, clean + 0.3):
        nets = Nets(student=Gaussian(clean, 1e-3).requires_grad_(False), fake=Gaussian(mean, 1e-3))
        losses.append(float(dmd().loss("fake", nets, batch_of(torch.zeros(64, *SHAPE)), 0, draws()).value.detach()))
    assert losses[1] < 0.01 * min(losses[0], losses[2])


def test_times_are_shifted_and_clamped():
    x = torch.zeros(4096, *SHAPE)
    u = draws().uniform(len(x))
    for shift, low, high in ((1.0, 0.02, 0.98), (5.0, 0.1, 0.7)):
        t = dmd(time_shift=shift, time_min=low, time_max=high).times(x, draws())
        assert torch.allclose(t, shifted(u, shift).clamp(low, high))
    assert float(shifted(u, 5.0).mean()) > 0.6 > float(u.mean()), "the shift moves towards noise"


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_every_exit_step_is_drawn_and_earlier_steps_use_the_declared_sampler(sampler):
    """A generator whose x0_hat is always 1: sde renoises with fresh noise, so that the state at the next sigma is
    (1-s) + s eps; ode goes straight from the first noise, whose state is the same line with the first noise."""
    seen = set()
    objective = dmd(sampler=sampler)
    for step in range(24):
        states: list[tuple[float, Tensor]] = []

        def student(x: Tensor, t: Tensor, cond: Condition, view: View | None = None, states: Any = states) -> Tensor:
            states.append((float(t[0]), x))
            return (x - 1) / t.view(-1, 1, 1, 1, 1)

        x = objective.generate({"student": student}, batch_of(torch.zeros(8, *SHAPE)), draws(step))
        assert torch.allclose(x, torch.ones_like(x), atol=1e-5)
        seen.add(len(states))
        first = states[0][1]
        for sigma, state in states[1:]:
            straight = torch.allclose(state, (1 - sigma) + sigma * first, atol=1e-5)
            assert straight == (sampler == "ode")
    assert seen == {1, 2, 3, 4}, "exits after 1 to 4 steps"


@pytest.mark.parametrize(("init", "view"), [("pruned", PRUNED), ("unpruned", FULL)])
@pytest.mark.parametrize("fake", ["full", "lora"])
def test_the_fake_starts_from_the_network_that_is_asked_for(init, view, fake):
    role = dmd(fake_init=init, fake=fake).roles()["fake"]
    assert role.train == fake and role.view.kept == view.kept
    assert role.view.adapter == (1.0 if fake == "lora" else 0.0)


def test_the_generator_waits_for_the_fake_and_then_moves_every_nth_iteration():
    phases = [dmd(ratio=3, fake_warmup=4).phases(step) for step in range(11)]
    assert dmd(ratio=3, fake_warmup=4).updates(11) == sum("student" in p for p in phases) == 3, "steps 4, 7, 10"
    assert [len(p) for p in phases] == [1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2]
    assert all(p[-1] == "fake" for p in phases)


# -- Bernoulli recovery ----------------------------------------------------------------------------------------


class Constant(nn.Module):
    """v = (number of kept blocks) * w: each view has a velocity of its own, known by hand."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.views: list[int] = []

    def forward(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None) -> Tensor:
        kept = FULL.kept if view is None or view.kept is None else view.kept
        assert kept is not None
        self.views.append(len(kept["blocks"]))
        return torch.ones_like(x) * len(kept["blocks"]) * self.w


def bernoulli(**options: Any) -> Any:
    return create("recovery", "bernoulli", {"drift_every": 1000} | options).bind(Setting(PRUNED, FULL, 4, 100))


@pytest.mark.parametrize("anchor", ["frozen", "shared"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_recovery_is_the_weighted_sum_of_equations_5_to_7(alpha, anchor):
    """x0 = 0 and p = 1: v_pruned = 2w, v_unpruned = 4w, the original's 4 * .7; the data's target is x1 itself."""
    w, original = 0.5, 0.7
    nets = Nets(student=Constant(w), original=Constant(original).requires_grad_(False))
    rng = draws(1)
    x1 = draws(1).normal(torch.zeros(16, *SHAPE))
    loss = bernoulli(alpha=alpha, anchor=anchor, p=1.0).loss("student", nets, batch_of(torch.zeros(16, *SHAPE)), 1, rng)
    target = 4 * (original if anchor == "frozen" else w)
    distil = (2 * w - target) ** 2
    data = float((2 * w - x1).pow(2).mean() + (4 * w - x1).pow(2).mean())
    assert float(loss.value) == pytest.approx((1 - alpha) * data + alpha * distil, rel=1e-5)
    loss.value.backward()
    # by hand: d/dw; the distillation target carries no gradient, also where it is the student itself
    by_hand = alpha * 2 * (2 * w - target) * 2
    by_hand += (1 - alpha) * float(2 * (2 * w - x1).mean() * 2 + 2 * (4 * w - x1).mean() * 4)
    assert float(nets["student"].w.grad) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("p", "draw"), [(0.25, "block"), (0.75, "block"), (0.25, "set"), (0.75, "set")])
def test_unimportant_blocks_are_skipped_with_probability_p(p, draw):
    """Two removable blocks: alone, 0 to 2 of them go; as a set, none or both. 400 draws: 4 standard errors are .09."""
    objective, sizes = bernoulli(p=p, draw=draw), []
    for step in range(400):
        kept = objective._drawn(step, draws(step)).kept["blocks"]
        assert {0, 3} <= set(kept), "important blocks stay"
        sizes.append(len(kept))
    assert sum(4 - s for s in sizes) / 2 / 400 == pytest.approx(p, abs=0.09)
    assert (3 in sizes) == (draw == "block")


@pytest.mark.parametrize("draw", ["block", "set"])
def test_at_p_1_both_draws_are_the_pruned_network(draw):
    assert bernoulli(p=1.0, draw=draw)._drawn(0, draws()).kept == PRUNED.kept


# -- teachers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["pruned", "unpruned"])
def test_cfg_asks_for_the_network_of_its_option(network):
    composer = create("teacher", "cfg", {"network": network})
    assert {q.view for q in composer.needs()} == {network}
