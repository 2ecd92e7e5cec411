"""Identities of the convention x_t = (1-t) x0 + t x1, v = x1 - x0."""

from __future__ import annotations

import pytest
import torch

from flc.flow import (
    few_step_grid,
    guided,
    noised,
    score_from_velocity,
    shifted,
    x0_from_velocity,
    x1_from_velocity,
)

torch.manual_seed(0)
X0, X1 = torch.randn(2, 3, 4, 2, 2, 2, dtype=torch.float64).unbind()
T = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)


def test_velocity_gives_back_both_ends():
    x_t, v = noised(X0, X1, T), X1 - X0
    assert torch.allclose(x0_from_velocity(x_t, v, T), X0, atol=1e-14)  # float64 rounding
    assert torch.allclose(x1_from_velocity(x_t, v, T), X1, atol=1e-14)


def test_score_difference_is_scaled_x0_difference():
    """s_fake - s_real = ((1-t)/t^2) (x0_fake - x0_real), and -t (v_fake - v_real) = x0_fake - x0_real."""
    x_t, fake, real = noised(X0, X1, T), X1, X0
    t = T.view(-1, 1, 1, 1, 1)
    difference = x0_from_velocity(x_t, fake, T) - x0_from_velocity(x_t, real, T)
    scores = score_from_velocity(x_t, fake, T) - score_from_velocity(x_t, real, T)
    assert torch.allclose(scores, (1 - t) / t**2 * difference, atol=1e-12)  # division by t^2 = .04
    assert torch.allclose(-t * (fake - real), difference, atol=1e-14)


def test_score_of_a_gaussian():
    """For x0 ~ N(m, s^2) in 1-D the score of p_t is -(x - (1-t) m) / ((1-t)^2 s^2 + t^2)."""
    m, s, t, x = 0.7, 0.4, 0.6, 0.3
    variance = (1 - t) ** 2 * s**2 + t**2
    x0_hat = m + (1 - t) * s**2 / variance * (x - (1 - t) * m)
    v = torch.full((1, 1, 1, 1, 1), (x - x0_hat) / t, dtype=torch.float64)
    got = score_from_velocity(torch.full_like(v, x), v, torch.tensor([t], dtype=torch.float64))
    assert float(got) == pytest.approx(-(x - (1 - t) * m) / variance, rel=1e-12)


@pytest.mark.parametrize(
    ("k", "grid"),
    [
        (5.0, [1, 0.9375, 0.8333, 0.625]),
        (7.0, [1, 0.9545, 0.875, 0.7]),
        (8.0, [1, 0.96, 0.8889, 0.7273]),
        (1.0, [1, 0.75, 0.5, 0.25]),
    ],
)
def test_published_grids(k, grid):
    assert few_step_grid(4, k) == pytest.approx(grid, abs=5e-5)  # four printed digits


def test_shift_keeps_the_ends_and_composes():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(shifted(t, 4.0)[[0, -1]], t[[0, -1]])
    assert torch.allclose(shifted(shifted(t, 2.0), 3.0), shifted(t, 6.0), atol=1e-15)


def test_guidance_scale_one_is_none():
    assert torch.equal(guided(X1, X0, 0.0), X0)
    assert torch.allclose(guided(X1, X0, 1.0), X1, atol=1e-15)
