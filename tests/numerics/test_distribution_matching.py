"""The distribution-matching gradient against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from flc.flow import noised
from flc.losses import distribution_matching, flow_matching, masked_mean, pseudo_huber

F64 = torch.float64


class Mixture:
    """A 1-D Gaussian mixture, noised: density, and the exact velocity E[x1 - x0 | x_t]."""

    def __init__(self, weights, means, stds):
        self.w, self.m, self.s = (torch.tensor(v, dtype=F64) for v in (weights, means, stds))

    def log_density(self, x, t):
        mean, var = (1 - t) * self.m, (1 - t) ** 2 * self.s**2 + t**2
        log = self.w.log() - 0.5 * ((x[:, None] - mean) ** 2 / var + (2 * math.pi * var).log())
        return log.logsumexp(1)

    def velocity(self, x, t):
        mean, var = (1 - t) * self.m, (1 - t) ** 2 * self.s**2 + t**2
        log = self.w.log() - 0.5 * ((x[:, None] - mean) ** 2 / var + var.log())
        share = log.softmax(1)
        x0 = (share * (self.m + (1 - t) * self.s**2 / var * (x[:, None] - mean))).sum(1)
        return (x - x0) / t


REAL = Mixture([0.3, 0.7], [-1.0, 1.5], [0.4, 0.6])


def gaussian_nodes(count=400):
    """Nodes and weights of the standard normal on a fine grid: quadrature error far below 1e-6."""
    z = torch.linspace(-8, 8, count * 10 + 1, dtype=F64)
    w = torch.exp(-0.5 * z**2)
    return z, w / w.sum()


def kl(mu, sigma, t):
    """KL(p_fake,t || p_real,t) for G = mu + sigma z, by quadrature."""
    std = math.sqrt((1 - t) ** 2 * sigma**2 + t**2)
    z, w = gaussian_nodes()
    x = (1 - t) * mu + std * z
    log_fake = -0.5 * z**2 - math.log(std * math.sqrt(2 * math.pi))
    return float((w * (log_fake - REAL.log_density(x, t))).sum())


def test_gradient_is_that_of_the_kl_of_a_mixture():
    """grad KL = E[((1-t)^2 / t^2) (x0_fake - x0_real) dG]; at (.7, .8), t = .5."""
    mu, sigma, t, h = 0.7, 0.8, 0.5, 1e-4
    finite = [
        (kl(mu + h, sigma, t) - kl(mu - h, sigma, t)) / (2 * h),
        (kl(mu, sigma + h, t) - kl(mu, sigma - h, t)) / (2 * h),
    ]
    # Every (z, noise) pair of two coarse normal grids, weighted: an exact expectation without sampling error.
    z, w = gaussian_nodes(24)
    zz, ee = torch.meshgrid(z, z, indexing="ij")
    weight = (w[:, None] * w[None]).reshape(-1)
    parameters = torch.tensor([mu, sigma], dtype=F64, requires_grad=True)
    x = parameters[0] + parameters[1] * zz.reshape(-1)
    shape = (-1, 1, 1, 1, 1)
    time = torch.full((len(x),), t, dtype=F64)
    x_t = (1 - t) * x + t * ee.reshape(-1)
    fake = Mixture([1.0], [mu], [sigma]).velocity(x_t.detach(), t)
    real = REAL.velocity(x_t.detach(), t)
    grad = -t * (fake - real)
    direction = torch.autograd.grad((weight * grad.detach() * x).sum(), parameters)[0] * (1 - t) ** 2 / t**2
    assert direction.tolist() == pytest.approx(finite, abs=1e-5)  # finite differences: h^2 and rounding / h
    # The surrogate's own gradient in x is grad / (B n): the same direction, in float32.
    leaf = x.detach().float().view(shape).requires_grad_()
    free = torch.ones(len(x), 1, 1, 1, 1)
    args = (v.float().view(shape) for v in (x_t.detach(), fake, real))
    x_t32, fake32, real32 = args
    value, _ = distribution_matching(leaf, x_t32, time.float(), fake32, real32, free, normalise=False)
    value.backward()
    assert torch.allclose(leaf.grad.flatten() * len(x), grad.float(), atol=1e-5)  # float32


def test_closed_form_of_two_gaussians():
    """G = mu + z against N(m, 1): E[x0_fake - x0_real] = (mu - m) t^2 / ((1-t)^2 + t^2)."""
    mu, m, t = 1.3, -0.4, 0.35
    z, w = gaussian_nodes()
    x_t = (1 - t) * mu + math.sqrt((1 - t) ** 2 + t**2) * z
    fake, real = (Mixture([1.0], [c], [1.0]).velocity(x_t, t) for c in (mu, m))
    assert float((w * -t * (fake - real)).sum()) == pytest.approx((mu - m) * t**2 / ((1 - t) ** 2 + t**2), abs=1e-9)


def test_no_gradient_where_the_distributions_agree():
    x = torch.randn(4, 2, 3, 2, 2, requires_grad=True)
    v, t = torch.randn(4, 2, 3, 2, 2), torch.rand(4)
    value, size = distribution_matching(x, x.detach(), t, v, v, torch.ones(4, 1, 3, 1, 1), normalise=True)
    value.backward()
    assert float(x.grad.abs().max()) == 0 and float(size.max()) == 0


def test_normaliser_is_mean_distance_to_the_real_prediction():
    x, v_real = torch.zeros(1, 1, 2, 1, 1, requires_grad=True), torch.zeros(1, 1, 2, 1, 1)
    x_t = torch.tensor([2.0, 4.0]).view(1, 1, 2, 1, 1)  # with v_real = 0 the real x0 is x_t: D = mean(2, 4) = 3
    v_fake, t = torch.full_like(v_real, -1.0), torch.tensor([0.5])  # x0_fake - x0_real = .5
    value, _ = distribution_matching(x, x_t, t, v_fake, v_real, torch.ones(1, 1, 2, 1, 1), normalise=True)
    value.backward()
    assert x.grad.flatten().tolist() == pytest.approx([0.5 / 3 / 2] * 2, rel=1e-5)  # / n elements; epsilon 1e-6 of 3


def test_given_frames_are_in_no_loss_and_no_normaliser():
    free = torch.ones(1, 1, 2, 1, 1)
    free[:, :, 0] = 0
    x = torch.zeros(1, 1, 2, 1, 1, requires_grad=True)
    x_t = torch.tensor([1000.0, 4.0]).view(1, 1, 2, 1, 1)
    v_real = torch.zeros(1, 1, 2, 1, 1)
    value, _ = distribution_matching(x, x_t, torch.tensor([0.5]), v_real - 1, v_real, free, normalise=True)
    value.backward()
    assert x.grad.flatten().tolist() == pytest.approx([0.0, 0.5 / 4], rel=1e-5)
    v = torch.tensor([7.0, 1.0]).view(1, 1, 2, 1, 1)
    zeros = torch.zeros_like(v)
    assert float(flow_matching(v, zeros, zeros, free)) == 1.0
    assert float(masked_mean(v, free)) == 1.0


def test_optimum_of_the_fakes_regression_is_the_analytic_velocity():
    """Least squares of x1 - x0 on (1, x_t) for Gaussian x0: the exact velocity is linear in x_t."""
    torch.manual_seed(0)
    m, s, t, n = 0.5, 0.7, 0.6, 400_000
    x0, x1 = m + s * torch.randn(n, dtype=F64), torch.randn(n, dtype=F64)
    x_t = noised(x0.view(-1, 1, 1, 1, 1), x1.view(-1, 1, 1, 1, 1), torch.full((n,), t, dtype=F64)).flatten()
    design = torch.stack([torch.ones(n, dtype=F64), x_t], 1)
    intercept, slope = torch.linalg.lstsq(design, (x1 - x0)[:, None]).solution.flatten()
    exact = Mixture([1.0], [m], [s]).velocity(torch.tensor([0.0, 1.0], dtype=F64), t)
    # standard errors are about std(v) / sqrt(n) = .002: four of them
    assert float(intercept) == pytest.approx(float(exact[0]), abs=0.008)
    assert float(slope) == pytest.approx(float(exact[1] - exact[0]), abs=0.01)


def test_pseudo_huber_is_quadratic_then_linear():
    free, zero = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    assert float(pseudo_huber(zero + 1e-5, zero, free)) == pytest.approx(1e-10 / 2e-3, rel=1e-2)  # float32 root
    assert float(pseudo_huber(zero + 3.0, zero, free)) == pytest.approx(3.0 - 1e-3, rel=1e-5)
