"""The sigmas that a stock pipeline really uses are the trainer's."""

from __future__ import annotations

import itertools

import pytest
import torch

from flc.draws import StepDraws
from flc.export.pipeline import save_pipeline
from flc.flow import few_step_grid, noised
from flc.models.folder import EMBEDDED
from flc.rollout import rollout, step


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 12.0])
def test_scheduler_gives_the_shifted_grid(adapter, steps, shift):
    schedule = adapter.schedule(steps, shift, "ode")
    # the table starts from sigma_min of 1000 training timesteps, which the terminal cannot fully undo: .0018 at most
    assert schedule.sigmas[:-1] == pytest.approx(few_step_grid(steps, shift), abs=2e-3)
    assert schedule.sigmas[-1] == 0.0


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_stock_pipeline_runs_on_the_trained_sigmas(adapter, tmp_path, sampler):
    schedule = adapter.schedule(4, 5.0, sampler)
    save_pipeline(adapter, EMBEDDED, adapter.transformer, schedule.scheduler, tmp_path)
    pipe = adapter.stock_pipeline(tmp_path, with_image=False)
    pipe.set_progress_bar_config(disable=True)
    seen = []

    def record(pipeline, index, timestep, kwargs):
        seen.append(float(timestep) / 1000)
        return kwargs

    pipe("a red circle moving left", height=48, width=48, num_frames=5, num_inference_steps=4, guidance_scale=1.0,
         output_type="latent", callback_on_step_end=record)  # fmt: skip
    assert seen == pytest.approx(list(schedule.sigmas[:-1]), abs=1e-6)
    assert pipe.scheduler.config.stochastic_sampling == (sampler == "sde")


def test_a_rollout_step_is_the_schedulers_step(adapter):
    x, v = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    for sampler in ("sde", "ode"):
        schedule = adapter.schedule(4, 5.0, sampler)
        draws = StepDraws(0, "s", 0)
        ours = step(x, v, schedule.sigmas[1], schedule.sigmas[2], sampler, draws)
        scheduler = schedule.scheduler
        scheduler.set_timesteps(4)
        scheduler.set_begin_index(1)
        stock = scheduler.step(v, scheduler.timesteps[1], x, return_dict=False)[0]
        if sampler == "sde":  # the stock step draws its own noise: compare what is left of it
            x0 = x - schedule.sigmas[1] * v
            ours_noise, stock_noise = ((y - (1 - schedule.sigmas[2]) * x0) / schedule.sigmas[2] for y in (ours, stock))
            expected = StepDraws(0, "s", 0).normal(x)
            assert torch.allclose(ours_noise, expected, atol=1e-5)  # float32 subtraction and division by .83
            assert 0.7 < float(stock_noise.std()) < 1.3  # 96 draws: standard error .07
        else:
            assert torch.allclose(ours, stock, atol=1e-6)


class Linear:
    """A net that counts calls and carries one parameter."""

    def __init__(self):
        self.scale, self.calls, self.graded = torch.tensor(0.5, requires_grad=True), 0, 0

    def __call__(self, x, t, cond, view=None):
        self.calls += 1
        self.graded += torch.is_grad_enabled()
        return self.scale * x


@pytest.mark.parametrize("exit_index", [0, 1, 3])
def test_only_the_exit_step_carries_a_gradient(make_condition, exit_index):
    net, cond, noise = Linear(), make_condition(2, image=False), torch.randn(2, 4, 3, 4, 4)
    sigmas = (1.0, 0.9, 0.8, 0.6, 0.0)
    x = rollout(net, noise, cond, sigmas, exit_index, "sde", StepDraws(0, "s", 0))
    assert net.calls == exit_index + 1 and net.graded == 1
    gradient = torch.autograd.grad(x.sum(), net.scale)[0]
    # x0_hat = x - sigma * scale * x: its derivative in scale sees the exit step's input only
    entered = x.detach() / (1 - sigmas[exit_index] * 0.5)
    assert torch.allclose(gradient, -(sigmas[exit_index] * entered).sum(), rtol=1e-4)  # float32 sum of 384 terms


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_an_exit_for_each_sample_is_the_rollout_to_that_exit(make_condition, sampler):
    sigmas, exits = (1.0, 0.9, 0.8, 0.6, 0.0), torch.tensor([3, 0, 2, 0, 1])
    cond, noise = make_condition(5), torch.randn(5, 16, 3, 4, 4)
    net = Linear()
    x = rollout(net, noise, cond, sigmas, exits, sampler, StepDraws(0, "s", 0))
    assert net.calls == 4 and net.graded == 1
    for row, exit_index in enumerate(exits.tolist()):
        whole = rollout(Linear(), noise, cond, sigmas, exit_index, sampler, StepDraws(0, "s", 0))
        assert torch.equal(x[row], whole[row])


def test_given_frames_stay_clean_through_a_rollout(make_condition):
    cond, noise = make_condition(2), torch.randn(2, 16, 3, 4, 4)
    x = rollout(Linear(), noise, cond, (1.0, 0.9, 0.8, 0.6, 0.0), 2, "sde", StepDraws(0, "s", 0))
    assert torch.equal(x[0, :, 0], cond.first[0, :, 0]) and not torch.equal(x[1, :, 0], cond.first[1, :, 0])


def test_x0_then_renoise_keeps_a_gaussian_where_euler_does_not():
    """Four steps of the exact consistency function of N(0, .3^2): renoising keeps the spread, Euler widens it."""
    torch.manual_seed(0)
    std, sigmas, n = 0.3, [*few_step_grid(4, 5.0), 0.0], 200_000

    def x0_of(x, t):  # the end of the probability-flow line through x at t
        return x * std / ((1 - t) ** 2 * std**2 + t**2) ** 0.5

    renoised = euler = torch.randn(n)
    for t, s in itertools.pairwise(sigmas):
        ends = torch.full((n,), s)
        renoised = noised(x0_of(renoised, t).view(-1, 1, 1, 1, 1), torch.randn(n, 1, 1, 1, 1), ends).flatten()
        euler = euler + (s - t) * (euler - x0_of(euler, t)) / t
    assert float(renoised.std()) == pytest.approx(0.3, abs=0.002)  # standard error .0005
    assert float(euler.std()) == pytest.approx(0.351, abs=0.005)  # the value checked in numpy before
