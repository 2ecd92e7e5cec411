"""Consistency distillation, and the two ways to move in few steps, against the closed forms of a Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flc.draws import StepDraws
from flc.flow import few_step_grid, per_sample, shifted
from flc.rollout import rollout

from .stub import Field, Fields, batch_of, bound

F64 = torch.float64
MEAN, STD = 0.4, 0.3


def spread(t: Tensor) -> Tensor:
    """Standard deviation of x_t."""
    return ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x1 - x0 | x_t] for x0 ~ N(MEAN, STD^2)."""
    t = per_sample(t, x)
    away = (x - (1 - t) * MEAN) / spread(t) ** 2
    return t * away - (MEAN + (1 - t) * STD**2 * away)


def end(x: Tensor, t: Tensor) -> Tensor:
    """Where the probability-flow ODE through (x, t) arrives at t = 0."""
    t = per_sample(t, x)
    return MEAN + STD / spread(t) * (x - (1 - t) * MEAN)


def consistent(x: Tensor, t: Tensor) -> Tensor:
    """The velocity whose x_t - t v is `end`. At t = 0 any number will do: 7."""
    return torch.where(per_sample(t, x) > 0, (x - end(x, t)) / per_sample(t, x).clamp(min=1e-9), torch.full_like(x, 7))


def clips(count: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return MEAN + STD * torch.randn(count, 1, 2, 1, 1, generator=g, dtype=F64)


class Lowest(StepDraws):
    """Every time is the grid's first."""

    def uniform(self, batch: int) -> Tensor:
        return torch.zeros(batch)


def test_the_end_is_constant_along_the_exact_path():
    """x_t = (1-t) MEAN + spread(t) z solves dx/dt = v, and f is the same all along it. 1e-12: float64."""
    z = torch.linspace(-3, 3, 7, dtype=F64).view(-1, 1, 1, 1, 1)
    ends = []
    for time in (0.05, 0.3, 0.6, 0.9, 1.0):
        t = torch.full((7,), time, dtype=F64)
        x, slope = torch.func.jvp(lambda t: (1 - t) * MEAN + spread(t) * z, (per_sample(t, z),), (torch.ones_like(z),))
        assert torch.allclose(slope, velocity(x, t), atol=1e-12)
        ends.append(end(x, t))
    assert torch.allclose(torch.stack(ends), (MEAN + STD * z).expand(5, *z.shape), atol=1e-12)


def times_of(lcm, samples: int, steps: int = 40) -> set[float]:
    """The times at which the student is trained, noted over `steps` iterations."""
    seen: set[float] = set()

    def student(x: Tensor, t: Tensor) -> Tensor:
        seen.update(t.tolist())
        return consistent(x, t)

    nets = Fields(velocity, student=student, target=consistent)
    for step in range(steps):
        lcm.loss("student", nets, batch_of(clips(samples)), step, StepDraws(0, "t", step))
    return seen


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("options", [{}, {"grid": 9}], ids=["default", "given"])
def test_every_sigma_at_which_the_student_is_sampled_is_a_time_at_which_it_is_trained(adapter, steps, options):
    """Those of the scheduler that goes into the student's folder. 2e-3: its table begins at the sigma_min of 1000
    training times (tests/numerics/test_schedule.py). Of just 50 times none is nearer to .9 than .005 and none nearer to
    .5 than .013, two of the sigmas of four steps."""
    lcm = bound("lcm", options, shift=3.0, steps=steps)
    trained = times_of(lcm, 64)  # stratified: all of them within a few iterations
    asked = lcm.options.grid
    assert asked <= len(trained) < asked + steps and len(trained) % steps == 0
    deployed = adapter.schedule(steps, 3.0, "sde").sigmas[:-1]
    assert max(min(abs(t - s) for t in trained) for s in deployed) < 2e-3


def test_at_time_0_f_is_x_whatever_the_network_says():
    lcm, batch, draws = bound("lcm", {"grid": 8}), batch_of(clips(4)), lambda: Lowest(0, "t", 0)
    fields = [Fields(velocity, student=consistent, target=lambda x, t, c=c: torch.full_like(x, c)) for c in (0, 1e6)]
    first, second = (lcm.loss("student", nets, batch, 0, draws()).value for nets in fields)
    assert torch.equal(first, second) and float(first) > 0


def test_f_of_the_exact_path_leaves_no_loss():
    """With a solver that stays on the path, each step to the grid's next point ends where the path does. Float64 is
    what the clips have; times are float32, whose error at the path's ends is 1e-6 of a clip, squared over 2 c."""
    grid, k = 8, 3.0
    lcm, batch = bound("lcm", {"grid": grid}, shift=k), batch_of(clips(64))

    def along(x: Tensor, t: Tensor) -> Tensor:
        n = (t / (k - (k - 1) * t) * grid).round()
        before = shifted((n - 1) / grid, k)
        now, then = per_sample(t, x), per_sample(before, x)
        z = (x - (1 - now) * MEAN) / spread(now)
        return ((1 - then) * MEAN + spread(then) * z - x) / (then - now)

    steps = (Fields(v, student=consistent, target=consistent) for v in (along, velocity))
    exact, euler = (float(lcm.loss("student", nets, batch, 0, StepDraws(0, "t", 0)).value) for nets in steps)
    assert exact < 1e-9 and euler > 1e-4


def test_the_error_of_the_solver_is_of_order_1():
    """For the exact f, a step of size h misses by O(h^2): N of them by O(1/N), and half the step halves that.

    5 %: the next order is 1/N = 1 % of it and the times are drawn, evenly over the grid, for 4096 clips.
    """
    batch, nets = batch_of(clips(4096)), Fields(velocity, student=consistent, target=consistent)
    total = [
        n * float(bound("lcm", {"grid": n, "c": 1e-9}).loss("student", nets, batch, 0, StepDraws(0, "t", 0)).value)
        for n in (52, 104, 208)
    ]
    assert total[0] / total[1] == pytest.approx(2, rel=0.05) and total[1] / total[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("target", ["ema", "stop-gradient"])
def test_the_target_gets_no_gradient(target):
    """Under stop-gradient the student's gradient is that of the same loss against numbers that do not depend on it."""
    batch = batch_of(clips(16))
    mine, other = (torch.tensor(1.1, dtype=F64, requires_grad=True) for _ in range(2))
    lcm = bound("lcm", {"grid": 8, "target": target})
    nets = Fields(velocity, student=lambda x, t: mine * consistent(x, t), target=lambda x, t: other * consistent(x, t))
    lcm.loss("student", nets, batch, 0, StepDraws(0, "t", 0)).value.backward()
    assert other.grad is None
    fixed = Fields(velocity, student=nets.roles["student"], target=lambda x, t: 1.1 * consistent(x, t))
    loss = bound("lcm", {"grid": 8}).loss("student", fixed, batch, 0, StepDraws(0, "t", 0)).value
    expected = torch.autograd.grad(loss, mine)[0]
    assert expected != 0 and torch.allclose(mine.grad, expected, rtol=1e-12)


def test_given_frames_do_not_count():
    x0 = clips(8)
    far = torch.cat([x0[:, :, :1] + 1000, x0[:, :, 1:]], 2)
    nets = Fields(velocity, student=lambda x, t: 0.5 * consistent(x, t), target=consistent)
    losses = [
        bound("lcm", {}).loss("student", nets, batch_of(x, torch.ones(8, dtype=torch.bool)), 0, StepDraws(0, "t", 0))
        for x in (x0, far)
    ]
    assert torch.equal(losses[0].value, losses[1].value)


def four_steps(sampler: str, noise: Tensor) -> Tensor:
    """The last x0_hat of four steps of shift 5, with the exact f."""
    sigmas = [*few_step_grid(4, 5.0), 0.0]
    cond = batch_of(noise).cond
    return rollout(Field(consistent), noise, cond, sigmas, 3, sampler, StepDraws(0, "t", 0))  # type: ignore[arg-type]


def test_a_consistency_model_keeps_the_spread_by_renoising_and_not_by_euler_steps():
    """Renoising an exact x0 gives an exact x_t: the spread is .300 again, here .2998. Euler steps take f for an
    instantaneous velocity, which it is not: linear in the noise, .3507 of it is left. .002: four standard errors of
    a standard deviation over 200,000 draws, .3 / sqrt(2 n)."""
    noise = torch.randn(200_000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert float(four_steps("sde", noise).std()) == pytest.approx(STD, abs=0.002)
    ends = four_steps("ode", torch.tensor([0.0, 1.0], dtype=F64).view(2, 1, 1, 1, 1)).flatten()
    assert float(ends[1] - ends[0]) == pytest.approx(0.3507, abs=1e-4)
