"""Heads, followers and a low-rank branch at several scales, on real modules."""

from __future__ import annotations

import copy

import pytest
import torch

from flc.api import Role, View
from flc.draws import StepDraws
from flc.errors import UserError
from flc.models.view import removed
from flc.train.nets import RoleNet, add_lora, build, lora_layers

from .conftest import DMD, FULL, PRUNED


def states(modules):
    return {f"{r}.{n}": v for r, m in modules.items() for n, v in m.state_dict().items()}


# -- heads -------------------------------------------------------------------------------------------------------


def test_a_head_is_the_same_for_the_same_seed_whatever_torchs_generator(adapter, wan):
    def made(seed: int, around: int):
        torch.manual_seed(around)
        before = torch.get_rng_state()
        role = Role("head", head=lambda width: torch.nn.Linear(width, 2))
        head = build(adapter, wan, {"head": role}, seed)["head"]
        assert torch.equal(torch.get_rng_state(), before), "and leaves it alone"
        assert not any(p.requires_grad for p in head.parameters())
        return head.weight

    first = made(0, 1)
    assert first.shape == (2, adapter.width(wan)) == (2, 24)
    assert torch.equal(first, made(0, 2)) and not torch.equal(first, made(1, 1))


def gradients(m, phase="student", step=1):
    """Of one phase, from the same draws; gradient by role and parameter."""
    draws = StepDraws(0, "t", step)
    m.nets.rng = draws
    m.engine.activate(phase)
    loss = m.objective.loss(phase, m.nets, m.batch_at(StepDraws(0, "b", step)), step, draws)
    loss.value.backward()
    found = {f"{r}.{n}": p.grad.clone() for r, ps in m.engine.parameters.items() for n, p in ps.items()
             if p.grad is not None}  # fmt: skip
    return loss, found


def test_the_generator_feels_the_head_through_the_teacher(miniature):
    """The GAN's part of the generator's gradient is linear in its weight. 1 % of its size: float32 differences of
    gradients that distribution matching dominates."""
    plain, once, twice = (gradients(miniature("dmd2", gan=g, regression=0))[1] for g in (1e-6, 1.0, 2.0))
    assert once.keys() == plain.keys() and all(n.startswith("student.") for n in once)
    added = {n: once[n] - plain[n] for n in plain}
    size = max(float(v.abs().max()) for v in added.values())
    assert size > 1e-5
    assert all(torch.allclose(twice[n] - plain[n], 2 * added[n], atol=0.01 * size) for n in plain)


# -- followers ---------------------------------------------------------------------------------------------------


def test_a_follower_is_the_moving_average_of_its_leader(miniature, tmp_path):
    """By hand over 5 updates, with the ramp min(decay, n / (n + 10)); 1e-6: float32 roundings of a few steps."""
    m = miniature("lcm", target_decay=0.2, ema=0.0)
    names = dict(m.modules["student"].named_parameters())
    by_hand = {n: p.detach().clone() for n, p in names.items()}
    start = {n: p.clone() for n, p in by_hand.items()}
    assert all(torch.equal(p, by_hand[n]) for n, p in m.modules["target"].named_parameters()), "they start as one"
    for count in range(1, 6):
        m.run(tmp_path, count)
        decay = min(0.2, count / (count + 10))
        by_hand = {n: decay * by_hand[n] + (1 - decay) * p.detach() for n, p in names.items()}
    for name, p in m.modules["target"].named_parameters():
        assert torch.allclose(p, by_hand[name], atol=1e-6), name
        assert torch.equal(p, m.engine.averages["target"].values[name]), name
    moved = max(float((by_hand[n] - start[n]).abs().max()) for n in start)
    lag = max(float((by_hand[n] - p.detach()).abs().max()) for n, p in names.items())
    assert moved > 1e-3 and lag > 1e-4, "neither the start nor the student itself"


def test_a_follower_comes_back_from_a_checkpoint_bit_for_bit(miniature, tmp_path):
    from flc.train.loop import checkpoint_path

    m = miniature("lcm")
    m.run(tmp_path, 3)
    again = miniature("lcm")
    assert [n for n, v in again.weights().items() if n.startswith("target.") and not torch.equal(v, m.weights()[n])]
    again.engine.load(checkpoint_path(tmp_path))
    assert again.weights().keys() == m.weights().keys()
    assert [n for n, v in again.weights().items() if not torch.equal(v, m.weights()[n])] == []
    assert again.engine.averages["target"].count == 3


def test_a_follower_of_bfloat16_weights_averages_their_float32_masters(miniature, tmp_path):
    m = miniature("lcm", dtype=torch.bfloat16, lr=1e-6, warmup=0)
    m.run(tmp_path, 2)
    name = "blocks.0.ffn.net.2.weight"
    average, masters = m.engine.averages["target"].values[name], m.engine.masters["student"][name]
    assert average.dtype == torch.float32 and 0 < float((average - masters).abs().max()) < 1e-5
    assert torch.equal(m.modules["target"].get_parameter(name), average.bfloat16())


@pytest.mark.parametrize("train", ["lora", "frozen"])
def test_only_a_full_role_can_be_followed(adapter, wan, train):
    roles = {"student": Role(train, PRUNED, rank=2), "target": Role("follow", of="student", ema=0.9)}
    with pytest.raises(AssertionError, match="full role only"):
        build(adapter, wan, roles)


# -- the low-rank branch at several scales -----------------------------------------------------------------------


def with_branch(m):
    """Its second matrix is zero at the start, which would hide its scale."""
    g = torch.Generator().manual_seed(9)
    for name, p in m.source.named_parameters():
        if "lora_B" in name:
            p.data.copy_(0.3 * torch.randn(p.shape, generator=g))
    return m


def cfg(scale: float, name: str = "cfg", **more):
    return name, {"network": "pruned", "scale": scale, **more}


@pytest.mark.parametrize("phase", ["student", "fake"])
def test_magic_without_leaning_and_data_is_dmd_with_a_low_rank_fake(miniature, phase):
    magic = with_branch(miniature("magic", teacher=cfg(3.0, "magic", weak=0.0), data=0.0))
    plain = with_branch(miniature("dmd", teacher=cfg(3.0), fake="lora", rank=4))
    (loss, found), (expected, reached) = gradients(magic, phase), gradients(plain, phase)
    assert torch.equal(loss.value, expected.value) and float(loss.value.detach()) > 0
    assert found.keys() == reached.keys() and all(torch.equal(found[n], reached[n]) for n in found)


def test_where_the_teacher_leans_all_the_way_to_the_fake_nothing_is_left_to_match(miniature):
    """a_weak = a_strong = 1 without guidance: real is fake. 1e-4 of what it is without leaning: the teacher's two
    conditions go in one batch, in float32."""
    sizes = []
    for weak in (0.0, 0.25, 1.0):
        m = with_branch(miniature("magic", teacher=cfg(1.0, "magic", weak=weak), normalise=False))
        loss, found = gradients(m)
        sizes.append((loss.metrics["grad"], max(float(g.abs().max()) for g in found.values())))
    for none, quarter, whole in zip(*sizes, strict=True):
        assert whole < 1e-4 * none and quarter != none


def test_a_teacher_that_leans_on_a_branch_nobody_trains_is_refused(miniature):
    with pytest.raises(UserError, match="trains none"):
        miniature("dmd", teacher=("magic", {}))
    miniature("dmd", teacher=("magic", {"weak": 0.0}))


def test_the_teacher_is_asked_at_each_scale_on_the_same_weights(miniature):
    """A composer may mix scales: each velocity is the network's own at that scale. 2e-5: float32 in larger batches."""
    from flc.api import Query
    from flc.train.nets import TEACHER, Teacher

    m = with_branch(miniature("magic"))
    queries = [Query(v, c, a) for a in (0.0, 0.5) for v in ("pruned", "unpruned") for c in ("text", "null")]

    class Every:
        def needs(self):
            return queries

    net = RoleNet(m.adapter, m.source, m.engine.call(TEACHER), View())
    cond, x, t = m.batch_at(StepDraws(0, "b", 0)).cond, torch.randn(4, 16, 3, 4, 4), torch.full((4,), 0.5)
    found = Teacher(net, Every(), PRUNED).evaluate(x, t, cond)
    with torch.no_grad():
        for q in queries:
            kept = PRUNED.kept if q.view == "pruned" else None
            alone = net(x, t, cond if q.condition == "text" else cond.without_text(), View(kept, q.adapter))
            assert torch.allclose(found[q], alone, atol=2e-5), q
    assert not torch.allclose(found[queries[0]], found[queries[4]], atol=1e-2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_gradients_through_a_branch_at_any_scale_survive_recomputed_blocks(adapter, wan, make_condition, scale):
    """The recomputed block must meet the scale of its forward. 1e-4 of the largest: float32, and text padding that
    is folded in one and not in the other."""
    adapter.prepare(wan)
    add_lora(wan, [name for name, _ in lora_layers(adapter, wan)], 4, 0)
    g = torch.Generator().manual_seed(9)
    for name, p in wan.named_parameters():
        if "lora_B" in name:
            p.data.copy_(0.3 * torch.randn(p.shape, generator=g))
    grads = []
    for checkpointing in (False, True):
        model = adapter.prepare(copy.deepcopy(wan))
        if checkpointing:
            model.enable_gradient_checkpointing()
        x = torch.randn(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        net = RoleNet(adapter, model, model, View(None, scale))
        net.features(x, torch.full((2,), 0.5), make_condition(2), [1.0])[0].pow(2).mean().backward()
        grads.append(x.grad)
        assert model.gradient_checkpointing == checkpointing, "put back"
    assert (grads[0] - grads[1]).abs().max() < 1e-4 * grads[0].abs().max()


# -- ICMD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pruned", "zero"), [(FULL, True), (PRUNED, False)], ids=["nothing removed", "pruned"])
def test_a_student_that_is_the_original_has_no_feature_distance(miniature, pruned, zero):
    m = miniature("icmd", pruned=pruned)
    batch, t = m.batch_at(StepDraws(0, "b", 0)), torch.tensor([0.1, 0.4, 0.6, 0.9])
    x_t = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        distance = float(m.objective.feature_distance(x_t, t, m.nets, batch))
    assert distance == 0 if zero else distance > 1e-4


@pytest.mark.parametrize("name", ["icmd", "sft"])
def test_blocks_still_to_go_stay_as_they_are(miniature, tmp_path, name):
    m = miniature(name)
    before = {n: p.detach().clone() for n, p in m.engine.parameters["student"].items()}
    m.run(tmp_path, 3)
    still = {n for n, p in m.engine.parameters["student"].items() if torch.equal(p, before[n])}
    gone = {n for n in before if n.startswith(("blocks.1.", "blocks.3."))}
    assert gone and gone <= still and len(still) < len(before)


# -- plain recovery ----------------------------------------------------------------------------------------------


def test_plain_recovery_is_flow_matching_of_the_network_without_its_blocks(miniature):
    """Against the loss written out, on a copy whose blocks are really removed."""
    m = miniature("sft")
    batch, small = m.batch_at(StepDraws(0, "b", 0)), m.adapter.prepare(removed(m.source, PRUNED.kept, m.adapter.stacks))
    with torch.no_grad():
        found = m.objective.loss("student", m.nets, batch, 0, StepDraws(0, "s", 0)).value
        rng = StepDraws(0, "s", 0)
        x1, u = rng.normal(batch.x0), rng.uniform(4)
        t = 3 * u / (1 + 2 * u)
        s = t.view(-1, 1, 1, 1, 1)
        x_t = batch.cond.clamp((1 - s) * batch.x0 + s * x1)
        v = m.adapter.velocity(small, small, x_t, t, batch.cond)
        free = batch.cond.free(batch.x0).expand_as(v)
        squared = ((v - (x1 - batch.x0)) ** 2 * free).sum((1, 2, 3, 4)) / free.sum((1, 2, 3, 4))
    assert float(found) == pytest.approx(float(squared.mean()), rel=1e-5)  # float32 sums


# -- rhythm ------------------------------------------------------------------------------------------------------


def test_the_head_moves_every_iteration_beside_the_fake(miniature):
    m = miniature("dmd2", ratio=3, fake_warmup=2)
    assert [m.objective.phases(s) for s in range(4)] == [("fake", "head")] * 2 + [("student", "fake", "head"),
                                                                                  ("fake", "head")]  # fmt: skip
    assert m.roles["head"].optim.lr == DMD["lr"] and m.roles["head"].optim.betas == (0.0, 0.999)


def test_a_composer_that_returns_one_number_is_named_and_not_taken_for_every_pixels_velocity(miniature):
    from flc.api import Query
    from flc.errors import PluginError
    from flc.train.nets import TEACHER, Teacher

    class Mean:
        def needs(self):
            return [Query("pruned")]

        def compose(self, velocities, rng):
            return velocities[Query("pruned")].mean()

    m = miniature("dmd")
    net = RoleNet(m.adapter, m.source, m.engine.call(TEACHER), View())
    cond, x, t = m.batch_at(StepDraws(0, "b", 0)).cond, torch.randn(4, 16, 3, 4, 4), torch.full((4,), 0.5)
    with pytest.raises(PluginError, match=r"Mean.compose\(...\) is of shape \(\), not \(4, 16, 3, 4, 4\) as x_t"):
        Teacher(net, Mean(), PRUNED)(x, t, cond, StepDraws(0, "t", 0))
