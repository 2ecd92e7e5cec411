"""What DMD2 and CoDMD add to distribution matching, and that without it they are distribution matching."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flc.draws import StepDraws
from flc.flow import per_sample
from flc.losses import gan_discriminator, gan_generator, log_relation, relation_divergence

from .stub import Fields, batch_of, bound
from .test_consistency import consistent, velocity

F64 = torch.float64


def clips(batch: int = 4) -> Tensor:
    return torch.randn(batch, 2, 3, 2, 2, generator=torch.Generator().manual_seed(2))


class Weights:
    """A student, a fake and a head of one number each."""

    def __init__(self) -> None:
        self.student, self.fake, self.head = (torch.tensor(w, requires_grad=True) for w in (0.7, 0.4, 1.3))

    def fields(self) -> Fields:
        return Fields(
            lambda x, t: 0.9 * x.roll(1, 2) - per_sample(t, x),
            lambda features: torch.cat([self.head * f.flatten(2).mT for f in features], 1),
            student=lambda x, t: self.student * x,
            fake=lambda x, t: self.fake * x + per_sample(t, x) ** 2,
            teacher=lambda x, t: x,
        )

    def gradients(
        self, name: str, options: dict, phase: str = "student", given: Tensor | None = None
    ) -> tuple[Tensor, list]:
        loss = bound(name, options).loss(phase, self.fields(), batch_of(clips(), given), 0, StepDraws(0, "t", 3)).value
        found = torch.autograd.grad(loss, [self.student, self.fake, self.head], allow_unused=True)
        return loss.detach(), [None if g is None else float(g) for g in found]


PLAIN = [("dmd2", {"gan": 0}), ("codmd", {"relation": 0}), ("magic", {"data": 0})]


@pytest.mark.parametrize("given", [None, torch.tensor([True, False, True, False])], ids=["text", "given frame"])
@pytest.mark.parametrize("phase", ["student", "fake"])
@pytest.mark.parametrize(("name", "options"), PLAIN, ids=[name for name, _ in PLAIN])
def test_without_its_own_term_a_method_is_distribution_matching_bit_for_bit(name, options, phase, given):
    plain, plain_gradients = Weights().gradients("dmd", {}, phase, given)
    loss, gradients = Weights().gradients(name, options, phase, given)
    assert torch.equal(loss, plain) and gradients == plain_gradients
    assert bound(name, options).phases(0) == ("student", "fake")


@pytest.mark.parametrize("exits", ["batch", "sample"])
@pytest.mark.parametrize("name", ["dmd", "dmd2", "codmd", "magic"])
def test_a_phase_moves_its_own_network_alone_though_all_require_a_gradient(name, exits):
    """Of the head's in the generator's step there is one, which engines do not take: the GAN term goes through it."""
    student, fake, _ = Weights().gradients(name, {"exits": exits}, "student")[1]
    assert student and fake is None
    student, fake, head = Weights().gradients(name, {"exits": exits}, "fake")[1]
    assert fake and student is None and head is None


@pytest.mark.parametrize(
    ("name", "phase"), [("dmd2", "student"), ("codmd", "student"), ("magic", "fake")], ids=["dmd2", "codmd", "magic"]
)
def test_by_default_it_is_not(name, phase):
    assert not torch.equal(Weights().gradients(name, {}, phase)[0], Weights().gradients("dmd", {}, phase)[0])


# -- DMD2 --------------------------------------------------------------------------------------------------------


def test_without_a_gan_there_is_no_head_to_train():
    assert set(bound("dmd2", {"gan": 0}).roles()) == {"student", "fake"}
    assert set(bound("dmd2", {}).roles()) == {"student", "fake", "teacher", "head"}


def test_a_discriminator_that_cannot_tell_loses_2_log_2():
    zero, c = torch.zeros(3, 2, 5), torch.full((3, 2, 5), 1.7, requires_grad=True)
    free = torch.ones(3, 1, 5)
    assert float(gan_discriminator(zero, zero, free)) == pytest.approx(2 * math.log(2), rel=1e-6)  # float32
    assert float(gan_discriminator(c, c, free).detach()) > 2 * math.log(2), "the same logits for both, but not 0"
    assert float(gan_discriminator(c, -c, free).detach()) < 2 * math.log(2)
    (step,) = torch.autograd.grad(gan_generator(c, free), c)
    assert step.max() < 0, "the generator raises the logits of its clips"


def test_items_that_do_not_count_are_in_no_row_and_no_column_of_relations():
    x, y = torch.randn(2, 3, 4, 6)
    counted = torch.ones(3, 4)
    counted[1, 0] = 0
    rows = [relation_divergence(x[i, 4 - n :], y[i, 4 - n :], 0.5) * n for i, n in ((0, 4), (1, 3), (2, 4))]
    # float32 sums of eleven rows
    assert float(relation_divergence(x, y, 0.5, counted)) == pytest.approx(float(sum(rows)) / 11, rel=1e-5)
    assert float(relation_divergence(x, y, 0.5, torch.ones(3, 4))) == pytest.approx(
        float(relation_divergence(x, y, 0.5)), rel=1e-6
    )


def test_given_frames_tell_a_discriminator_nothing():
    real, fake = torch.randn(2, 3, 2, 5, requires_grad=True)
    free = torch.ones(3, 1, 5)
    free[1, :, 0] = 0
    for value in (gan_discriminator(real, fake, free), gan_generator(fake, free)):
        (step,) = torch.autograd.grad(value, fake, retain_graph=True)
        assert not step[1, :, 0].any() and step[1, :, 1:].all() and step[0].all() and step[2].all()


def test_the_gan_term_follows_the_head_and_the_heads_loss_moves_the_head_alone():
    """L_G is linear in the weight of the GAN: what gan = 2 adds is twice what 1 adds. 1e-5: float32 differences."""
    values = [Weights().gradients("dmd2", {"gan": g})[1][0] for g in (0, 1, 2)]
    assert values[1] != values[0] and values[2] - values[0] == pytest.approx(2 * (values[1] - values[0]), rel=1e-5)
    _, (student, fake, head) = Weights().gradients("dmd2", {}, "head")
    assert student is None and fake is None and head


class Rolled:
    """DMD2 with every rollout noted: the clips, and whether they carry a gradient. With `clips` they are those."""

    def __init__(self, options: dict | None = None, clips: Tensor | None = None) -> None:
        self.objective, self.rollouts = bound("dmd2", options or {}), list[Tensor]()
        self.weights, generate = Weights(), self.objective.generate

        def noted(*given):
            self.rollouts.append(generate(*given) if clips is None else clips)
            return self.rollouts[-1]

        self.objective.generate = noted

    def gradients(self, phase: str, draws: StepDraws) -> list[Tensor | None]:
        w = self.weights
        loss = self.objective.loss(phase, w.fields(), batch_of(clips()), 0, draws).value
        return list(torch.autograd.grad(loss, [w.student, w.fake, w.head], allow_unused=True))


@pytest.mark.parametrize("exits", ["batch", "sample"])
def test_fake_and_head_of_an_iteration_learn_from_one_rollout(exits):
    """And their gradients are, bit for bit, those that two rollouts to the same clips would give them."""
    shared, draws = Rolled({"exits": exits}), StepDraws(0, "t", 3)
    gradients = [shared.gradients(phase, draws) for phase in ("fake", "head")]
    (made,) = shared.rollouts
    assert not made.requires_grad
    again = StepDraws(0, "t", 3)
    apart = Rolled({"exits": exits}).gradients("fake", again)
    assert gradients == [apart, Rolled({"exits": exits}, made).gradients("head", again)]
    assert gradients[0][1] and gradients[1][2] and not shared.objective.made, "what both have used is let go"


def test_clips_are_shared_by_one_iteration_and_one_part_of_its_batch_alone():
    """The loop takes a phase's parts in turn, and the head's phase takes the clips of its own part."""
    m, parts = Rolled(), [StepDraws(0, "t", 3, part, 2) for part in range(2)]
    for phase in ("student", "fake"):
        for own in parts:
            m.gradients(phase, own)
    student, (first, second) = m.rollouts[:2], m.rollouts[2:]
    assert all(x.requires_grad for x in student), "the generator moves afterwards: its phase shares nothing"
    held = [m.objective.made[own] for own in parts]
    assert held[0] is first and held[1] is second and not torch.equal(first, second)
    m.gradients("head", parts[1])
    assert list(m.objective.made) == parts[:1] and len(m.rollouts) == 4
    m.gradients("head", StepDraws(0, "t", 4))
    assert len(m.rollouts) == 5 and list(m.objective.made) == parts[:1], "another iteration rolls out anew"
    del own
    parts.clear()
    assert not m.objective.made, "of an iteration that broke off nothing stays"


def test_the_generator_never_moves_between_the_fakes_phase_and_the_heads():
    for ratio, warmup in ((1, 0), (3, 2)):
        dmd2 = bound("dmd2", {"ratio": ratio, "fake_warmup": warmup})
        assert {dmd2.phases(step)[-2:] for step in range(9)} == {("fake", "head")}


def test_without_a_head_no_clips_are_held():
    m, draws = Rolled({"gan": 0}), StepDraws(0, "t", 3)
    m.gradients("fake", draws)
    assert len(m.rollouts) == 1 and not m.objective.made


def regression(steps: int, options: dict | None = None) -> float:
    """Between the exact one-step generator of a Gaussian and `steps` Euler steps of the exact ODE."""
    nets, x0 = Fields(velocity, student=consistent), torch.zeros(64, 1, 2, 1, 1, dtype=F64)
    dmd2 = bound("dmd2", {"regression": 1, "regression_steps": steps} | (options or {}))
    return float(dmd2.regression(nets, batch_of(x0), StepDraws(0, "t", 0)))


def test_regression_is_zero_where_the_student_is_the_teachers_one_step_solution():
    nets = Fields(velocity, student=velocity)
    dmd2 = bound("dmd2", {"regression": 1, "regression_steps": 1})
    assert float(dmd2.regression(nets, batch_of(clips().to(F64)), StepDraws(0, "t", 0))) == 0
    assert regression(1) > 1e-3, "the exact end is another point"


def test_regression_tends_to_the_teachers_ode():
    """Euler is of order 1, so the square of its error falls by 4 when the steps double, in the limit."""
    assert regression(200) / regression(400) == pytest.approx(4, rel=0.05)  # the next order is 1/200 of it, a few times


# -- CoDMD -------------------------------------------------------------------------------------------------------


def test_rows_of_the_relation_matrix_sum_to_1_without_the_diagonal():
    relation = log_relation(torch.randn(3, 5, 7), 0.1).exp()
    assert torch.allclose(relation.sum(-1), torch.ones(3, 5), atol=1e-6)  # float32
    assert relation.diagonal(dim1=-2, dim2=-1).abs().max() == 0


def test_relations_depend_on_directions_alone():
    items = torch.randn(4, 6, dtype=F64)
    scaled = items * torch.tensor([[0.5], [1.0], [2.0], [9.0]])
    assert torch.allclose(log_relation(items, 0.3), log_relation(scaled, 0.3), atol=1e-5)  # computed in float32


def test_where_both_relate_alike_divergence_is_0_and_has_no_gradient():
    """2e-6: rows sum to 1 up to float32, times 1 / temperature = 10."""
    x = torch.randn(2, 5, 7, requires_grad=True)
    value = relation_divergence(x, x, 0.1)
    value.backward()
    assert float(value.detach()) == 0 and float(x.grad.abs().max()) < 2e-6


def test_divergence_is_that_of_each_row_and_pulls_relations_together():
    x, y = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    p, q = (log_relation(z.detach(), 0.5) for z in (y, x))
    off = ~torch.eye(5, dtype=torch.bool)
    rows = [(p[i][off[i]].exp() * (p[i] - q[i])[off[i]]).sum() for i in range(5)]
    start = relation_divergence(x, y, 0.5)
    assert float(start.detach()) == pytest.approx(float(sum(rows)) / 5, rel=1e-5)  # float32 sums in another order
    for _ in range(200):
        (step,) = torch.autograd.grad(relation_divergence(x, y, 0.5), x)
        x = (x - 2.0 * step).detach().requires_grad_()
    assert float(relation_divergence(x, y, 0.5).detach()) < 0.1 * float(start.detach())


@pytest.mark.parametrize("batch", [1, 2])
def test_with_nothing_to_relate_samples_to_the_term_is_that_of_frames(batch):
    """One clip, or two (the softmax over one other is 1), relate in one way only."""
    codmd = bound("codmd", {})
    metrics = codmd.loss("student", Weights().fields(), batch_of(clips(batch)), 0, StepDraws(0, "t", 3)).metrics
    assert metrics["samples"] == 0 and metrics["frames"] > 0
