"""What DMD2, CoDMD, MagicDistillation and ICMD minimise, against their equations written out: signs, weights, sides.

Every network points to a clip that the test knows and all draws are known, so that each term is a number by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from flc.losses import relation_divergence

from .stub import Fields, Known, batch_of, bound, towards

B, C, F, H = 4, 2, 4, 2
F64 = torch.float64  # sums by hand are the same up to 1e-12 then
#: Real clips, what the generator makes, where the teacher and where the fake point to, noise.
X0, MADE, REAL, FAKE, NOISE = torch.randn(5, B, C, F, H, H, generator=torch.Generator().manual_seed(0), dtype=F64)
TIMES = torch.tensor([0.1, 0.3, 0.6, 0.8], dtype=F64)  # shifted by 3 or 5 they are within [.02, .98]
GIVEN = [None, torch.tensor([True, False, True, False])]
given_or_not = pytest.mark.parametrize("given", GIVEN, ids=["text", "given frame"])
with_heads = pytest.mark.parametrize(("kind", "name"), [("distiller", "dmd2"), ("recovery", "icmd")])


def draws() -> Known:
    return Known(NOISE, TIMES)


def shifted(k: float) -> Tensor:
    return k * TIMES / (1 + (k - 1) * TIMES)


def broad(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1, 1)


def noisy(x: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
    """(1-t) x + t NOISE, given frames clean."""
    x_t = (1 - broad(t)) * x + broad(t) * NOISE
    if given is not None:
        x_t[given, :, 0] = X0[given, :, 0]
    return x_t


def average(x: Tensor, given: Tensor | None, frames: int) -> float:
    """Mean over clips of each clip's mean without its given frame; dimension `frames` counts frames."""
    first = [0] * len(x) if given is None else given.long().tolist()
    return float(sum(clip.narrow(frames - 1, f, F - f).mean() for clip, f in zip(x, first, strict=True)) / len(x))


def by_frame(x: Tensor) -> Tensor:
    """The stub's hidden states at depth 1 (B, F, N, D)."""
    return x.movedim(1, -1).flatten(2, 3)


def head(features: Sequence[Tensor]) -> Tensor:
    """Logits (B, heads, F), each with something of every frame of its clip."""
    return torch.cat([(1.3 * f + 0.5 * f.mean(1, keepdim=True)).flatten(2).mT for f in features], 1)


def told(x: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
    """Logits of x noised, at the default depths of half and all of the network."""
    hidden = by_frame(noisy(x, t, given))
    return head([0.5 * hidden, hidden])


def networks(head: Callable[[Sequence[Tensor]], Tensor] = head, **roles: Any) -> Fields:
    rest = dict.fromkeys(("teacher", "original"), towards(X0))  # these are asked for hidden states only
    return Fields(towards(REAL), head, **{"student": towards(MADE), "fake": towards(FAKE), **rest, **roles})


def loss(name: str, phase: str, options: dict, given: Tensor | None, kind: Any = "distiller", **roles: Any) -> float:
    objective = bound(name, options, kind=kind)
    return float(objective.loss(phase, networks(**roles), batch_of(X0, given), 0, draws()).value)


# -- heads -------------------------------------------------------------------------------------------------------


@given_or_not
@with_heads
def test_heads_see_a_clip_noised_with_its_given_frame_clean(kind, name, given):
    nets = networks(head=lambda features: features[1])  # what a head is shown
    seen = bound(name, {}, kind=kind).logits(MADE, NOISE, TIMES, nets, batch_of(X0, given))
    assert torch.allclose(seen, by_frame(noisy(MADE, TIMES, given)), atol=1e-14)


@given_or_not
@with_heads
def test_heads_learn_to_raise_real_clips_and_to_lower_made_ones(kind, name, given):
    t = shifted(5 if name == "dmd2" else 3)
    real, made = told(X0, t, given), told(MADE, t, given)
    expected = average(softplus(-real) + softplus(made), given, 2)
    assert loss(name, "head", {}, given, kind) == pytest.approx(expected, rel=1e-12)


# -- DMD2 --------------------------------------------------------------------------------------------------------


@given_or_not
@pytest.mark.parametrize(("gan", "regression"), [(0.5, 0.0), (0.0, 2.0), (0.5, 2.0)])
def test_dmd2_adds_what_fools_the_head_and_the_distance_to_the_teachers_solution(gan, regression, given):
    """The teacher's ODE is straight to REAL, where any number of Euler steps arrives."""
    plain = loss("dmd", "student", {}, given)
    fooled = average(softplus(-told(MADE, shifted(5), given)), given, 2)
    distance = average((MADE - REAL).pow(2), given, 2)
    found = loss("dmd2", "student", {"gan": gan, "regression": regression}, given)
    assert found == pytest.approx(plain + gan * fooled + regression * distance, rel=1e-6)  # matching is in float32


@pytest.mark.parametrize("name", ["dmd2", "codmd"])
def test_the_generators_loss_does_not_move_given_frames(name):
    """With a generator that leaves them unclamped, so that they could be moved."""
    x, batch = MADE.clone().requires_grad_(), batch_of(X0, GIVEN[1])
    objective = bound(name, {"relation": 10} if name == "codmd" else {"gan": 10})
    objective.generate = lambda nets, batch, rng: x
    objective.loss("student", networks(), batch, 0, draws()).value.backward()
    assert not x.grad[GIVEN[1], :, 0].any()
    assert x.grad[:, :, 1:].all() and x.grad[~GIVEN[1], :, 0].all()


# -- CoDMD -------------------------------------------------------------------------------------------------------


def related(x: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Divergence of samples and of frames from those of y = x + x0_real - x0_fake."""
    y = (x + REAL - FAKE).detach()
    of_frames = [z.transpose(1, 2).flatten(2) for z in (x, y)]
    return relation_divergence(x.flatten(1), y.flatten(1), temperature), relation_divergence(*of_frames, temperature)


def test_codmd_draws_relations_to_where_distribution_matching_points():
    """Value and gradient of what the relation terms add. 1e-5: float32 differences."""
    x = MADE.clone().requires_grad_()
    samples, frames = related(x)
    (expected,) = torch.autograd.grad(2 * (samples + frames), x)
    samples, frames = samples.item(), frames.item()
    values, gradients = [], []
    for weight in (0.0, 2.0):
        codmd = bound("codmd", {"relation": weight})
        made = codmd.loss("student", networks(student=towards(x)), batch_of(X0), 0, draws())
        values.append(float(made.value.detach()))
        gradients += torch.autograd.grad(made.value, x)
    assert made.metrics["samples"] == pytest.approx(samples, rel=1e-5)
    assert made.metrics["frames"] == pytest.approx(frames, rel=1e-5)
    assert values[1] - values[0] == pytest.approx(2 * (samples + frames), rel=1e-5)
    assert torch.allclose(gradients[1] - gradients[0], expected, atol=1e-5 * float(expected.abs().max()))


# -- MagicDistillation -------------------------------------------------------------------------------------------


@given_or_not
@pytest.mark.parametrize(("clip", "real", "made"), [(X0, 0, 1), (MADE, 1, 0)], ids=["real", "made"])
def test_magics_fake_learns_real_clips_beside_made_ones(clip, real, made, given):
    """A fake that is exact for one of them, v = NOISE - clip, misses the other by the distance between both."""
    distance = average((X0 - MADE).pow(2), given, 2)
    for weight in (0.1, 3.0):
        found = loss("magic", "fake", {"data": weight}, given, fake=lambda x, t: NOISE - clip)
        assert found == pytest.approx((made + weight * real) * distance, rel=1e-12)


# -- ICMD --------------------------------------------------------------------------------------------------------


@given_or_not
@pytest.mark.parametrize("options", [{}, {"distil": 3.0, "adversarial": 0.25}, {"adversarial": 0.0}])
def test_icmds_recovery_is_task_and_feature_distance_and_what_fools_the_head(options, given):
    """The student's two blocks end at 1/2 and 1 of its depth, where the original's end at 1/3 and 1: hidden states of
    the stub are x_t times that."""
    t = shifted(3)
    x_t = noisy(X0, t, given)
    task = average(((x_t - MADE) / broad(t) - (NOISE - X0)).pow(2), given, 2)
    distance = average(x_t.pow(2), given, 2) * (1 / 2 - 1 / 3) ** 2 / 2
    fooled = average(softplus(-told(MADE, t, given)), given, 2)
    expected = task + options.get("distil", 0.1) * distance + options.get("adversarial", 1.0) * fooled
    found = loss("icmd", "student", options, given, "recovery")
    assert found == pytest.approx(expected, rel=1e-6)  # hidden states are compared in float32


def test_the_feature_distance_draws_free_frames_to_the_originals_and_leaves_given_ones():
    here, there = torch.randn(2, 2, B, F, 3, 5, generator=torch.Generator().manual_seed(1))
    here.requires_grad_()
    nets: Any = {role: SimpleNamespace(features=lambda *_, h=h: list(h)) for role, h in
                 (("student", here), ("original", there))}  # fmt: skip
    batch = batch_of(X0, GIVEN[1])
    distance = bound("icmd", {}, kind="recovery").feature_distance(X0, TIMES, nets, batch)
    apart = (here - there).detach()
    expected = sum(average(of_block.pow(2), GIVEN[1], 1) for of_block in apart) / 2
    assert float(distance.detach()) == pytest.approx(expected, rel=1e-5)  # float32 sums
    distance.backward()
    assert not here.grad[:, GIVEN[1], 0].any()
    here.grad[:, GIVEN[1], 0] = apart[:, GIVEN[1], 0]
    assert (here.grad * apart > 0).all(), "a step down the gradient is one towards the original"
