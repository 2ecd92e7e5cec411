"""Narrower feed-forward layers: what a copy computes, what a channel is worth, how many stay, who teaches."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import WanTransformer3DModel

from flc.api import Batch, Budget, Role, Sample, Setting, View
from flc.draws import StepDraws
from flc.models.channels import channel_size, narrowed
from flc.models.prunable import Prunable
from flc.models.view import removed
from flc.registry import create
from flc.train.nets import RoleNet, Teacher, build, connect

FULL = {"blocks": (0, 1, 2, 3, 4)}


@pytest.fixture
def model(adapter, wan):
    return Prunable(adapter, adapter.prepare(wan))


@pytest.fixture
def sample(make_condition):
    g = torch.Generator().manual_seed(2)
    x0, x1 = torch.randn(2, 4, 16, 3, 4, 4, generator=g)
    return Sample(x0, x1, torch.tensor([0.2, 0.4, 0.6, 0.8]), make_condition(4))


def some(count: int, seed: int = 0) -> dict[str, list[list[int]]]:
    g = torch.Generator().manual_seed(seed)
    return {"blocks": [sorted(torch.randperm(32, generator=g)[:count].tolist()) for _ in range(5)]}


def test_a_narrowed_copy_computes_what_the_original_does_with_the_other_channels_at_zero(adapter, model, sample):
    channels = some(12)
    thin = narrowed(adapter, model.transformer, channels)
    masked = adapter.prepare(copy.deepcopy(model.transformer))
    with torch.no_grad():
        for block, kept in zip(masked.blocks, channels["blocks"], strict=True):
            gone = [c for c in range(32) if c not in kept]
            block.ffn.net[2].weight[:, gone] = 0
    narrow, zeroed, whole = (Prunable(adapter, m).velocity(sample) for m in (thin, masked, model.transformer))
    assert torch.allclose(narrow, zeroed, atol=1e-5)  # float32 sums over fewer terms
    assert not torch.allclose(narrow, whole, atol=1e-2)
    assert model.transformer.config.ffn_dim == 32, "the original stays as it is"
    assert narrowed(adapter, model.transformer, None) is model.transformer


def test_narrowed_and_shortened_weights_reload_clean_and_weigh_what_the_budget_says(adapter, model, tmp_path):
    channels, kept = some(8), {"blocks": (0, 2, 4)}
    small = removed(narrowed(adapter, model.transformer, channels), kept, adapter.stacks)
    small.save_pretrained(tmp_path)
    again, info = WanTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (again.config.ffn_dim, again.config.num_layers) == (8, 3)
    count = [sum(p.numel() for p in m.blocks.parameters()) for m in (again, model.transformer)]
    assert Budget(0.5, model.weights, model.ffn).share(kept, channels) == pytest.approx(count[0] / count[1], rel=1e-12)


def test_a_channel_is_its_row_its_bias_and_its_column(model):
    assert model.ffn == {"blocks": (32, 24 + 1 + 24)} == {"blocks": channel_size(model.feed_forward("blocks", 3))}


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_channels_are_ranked_by_their_whole_group(model, sample, importance):
    """Against the formulas over row and column, divided by their mean; the gradient is that of the sum over clips."""
    pruner, s, block = create("pruner", "width", {"importance": importance}), sample, 3

    def loss(sample, v):
        return (v - (sample.x1 - sample.x0)).pow(2).mean((1, 2, 3, 4))

    with model.gradients([s, s], loss):
        ffn = model.feed_forward("blocks", block)
        found = pruner.importance(ffn)
        row, column = ffn.net[0].proj.weight, ffn.net[2].weight
        if importance == "taylor":
            parts = (row * row.grad).abs().sum(1) + (column * column.grad).abs().sum(0)
        else:
            parts = row.pow(2).sum(1) + column.pow(2).sum(0)
        expected = (parts / parts.mean()).detach()
    assert all(p.grad is None and not p.requires_grad for p in model.transformer.parameters())
    assert torch.allclose(found, expected, rtol=1e-5)  # float32 sums


def test_gradients_of_blocks_that_are_computed_again_are_the_same(model, sample):
    def found(checkpointing):
        model.checkpointing = checkpointing
        with model.gradients([sample], lambda s, v: v.pow(2).mean((1, 2, 3, 4))):
            assert not model.transformer.gradient_checkpointing
            return model.feed_forward("blocks", 0).net[2].weight.grad.clone()

    plain = found(False)
    # float32 sums over 512 rows of text instead of a few
    assert torch.allclose(found(True), plain, atol=1e-4 * float(plain.abs().max())) and plain.abs().max() > 0


def test_a_channel_that_does_nothing_goes_first(model, sample):
    idle = {"blocks": [[1, 5, 7, 30], [0, 1, 2, 3], [8, 9, 10, 11], [4, 6, 8, 10], [28, 29, 30, 31]]}
    with torch.no_grad():
        for block, channels in zip(model.transformer.blocks, idle["blocks"], strict=True):
            block.ffn.net[2].weight[:, channels] = 0
    # 4 of 32 channels, 49 parameters each, of every block
    keep = 1 - 4 * 49 / model.weights["blocks"][0]
    pruner = create("pruner", "width", {"multiple": 4, "samples": 4})
    plan = pruner.plan(model, lambda count: iter([sample]), Budget(keep, model.weights, model.ffn))
    assert plan.kept == FULL and plan.details["channels"] == {"blocks": 28}
    gone = [[c for c in range(32) if c not in kept] for kept in plan.channels["blocks"]]
    assert gone == idle["blocks"]


@pytest.mark.parametrize(
    ("keep", "least", "channels", "depth"),
    [(1.0, 0.25, None, 5), (0.9, 0.25, 16, 5), (0.8, 1.0, None, 4), (0.4, 0.5, 16, 2)],
)
def test_channels_go_as_far_as_the_budget_asks_and_then_blocks(model, sample, keep, least, channels, depth):
    """Of a block's parameters 16 channels are 12 %, 8 are 6 %; a block is 20 % of all."""
    assert 16 * 49 / model.weights["blocks"][0] == pytest.approx(0.117, abs=0.001)
    budget = Budget(keep, model.weights, model.ffn)
    pruner = create("pruner", "width", {"least": least, "samples": 4})
    plan = pruner.plan(model, lambda count: iter([sample]), budget)
    assert budget.fits(plan.kept, plan.channels)
    assert (plan.channels and len(plan.channels["blocks"][0])) == channels and len(plan.kept["blocks"]) == depth


def test_a_block_is_worth_the_x0_error_without_it(model, sample):
    """|| x_t - t v - x0 ||^2 over free frames, written out; 1e-4: float32 sums over clips in another batch."""
    budget = Budget(0.4, model.weights, model.ffn)
    plan = create("pruner", "width", {"least": 1.0, "samples": 4}).plan(model, lambda count: iter([sample]), budget)
    t, free, expected = sample.t.view(-1, 1, 1, 1, 1), sample.cond.free(sample.x0).expand_as(sample.x0), []
    for i in range(5):
        v = model.velocity(sample, View({"blocks": tuple(j for j in range(5) if j != i)}))
        error = (1 - t) * sample.x0 + t * sample.x1 - t * v - sample.x0
        expected.append(float(((error**2 * free).sum((1, 2, 3, 4)) / free.sum((1, 2, 3, 4))).mean()))
    assert plan.scores["blocks"] == pytest.approx(expected, rel=1e-4)
    assert list(plan.kept["blocks"]) == sorted(sorted(range(5), key=lambda i: expected[i])[-2:]), "the two highest"


@pytest.mark.parametrize("name", ["well-guided", "cfg", "strong", "weak"])
@torch.no_grad()
def test_the_unpruned_side_of_the_teacher_is_the_network_before_it_was_narrowed(adapter, model, sample, name):
    whole, thin = model.transformer, narrowed(adapter, model.transformer, some(8))
    pruned = View({"blocks": (0, 2, 4)})
    net = RoleNet(adapter, thin, thin, View())
    teacher = Teacher(net, create("teacher", name), pruned, RoleNet(adapter, whole, whole, View()))
    x, t, cond = sample.x0, sample.t, sample.cond
    cut = adapter.prepare(removed(thin, pruned.kept, adapter.stacks))
    small = RoleNet(adapter, cut, cut, View())
    wide = RoleNet(adapter, whole, whole, View())
    v = teacher.evaluate(x, t, cond)
    for query in create("teacher", name).needs():
        alone = {"pruned": small, "unpruned": wide}[query.view]
        exact = alone(x, t, cond if query.condition == "text" else cond.without_text())
        assert torch.allclose(v[query], exact, atol=1e-5), query  # float32 sums of another batch size
    composed = teacher(x, t, cond, StepDraws(0, "s", 0))
    assert torch.equal(composed, create("teacher", name).compose(v, StepDraws(0, "s", 0)))


def test_frozen_roles_hold_the_network_before_it_was_narrowed_and_all_others_the_narrowed_one(adapter, model):
    whole, thin = model.transformer, narrowed(adapter, model.transformer, some(8))
    roles = {"student": Role("full", View(FULL)), "original": Role("frozen"), "fake": Role("lora", rank=2)}
    made = build(adapter, thin, roles, 0, whole)
    assert made["original"] is whole and made["fake"] is thin
    assert made["student"].config.ffn_dim == 8 and made["student"] is not thin
    assert build(adapter, whole, {"original": Role("frozen")})["original"] is whole


def test_recovery_learns_what_the_network_said_before_it_was_narrowed(adapter, model, sample):
    """The loss against the velocities of both networks written out; nothing is skipped, so that narrowing alone is
    to be undone."""
    whole, thin = model.transformer, narrowed(adapter, model.transformer, some(8))
    objective = create("recovery", "bernoulli", {"p": 0.0}).bind(Setting(View(FULL), View(FULL), 4, 10))
    roles = objective.roles()
    modules = build(adapter, thin, roles, 0, whole)
    nets = connect(adapter, modules, roles, modules.__getitem__, None)
    batch, rng = Batch(sample.x0, sample.cond), StepDraws(0, "s", 1)
    with torch.no_grad():
        found = float(objective.loss("student", nets, batch, 1, rng).value)
        rng = StepDraws(0, "s", 1)
        x1, u = rng.normal(sample.x0), rng.uniform(4)
        drawn = Sample(sample.x0, x1, 3 * u / (1 + 2 * u), sample.cond)
        v_thin, v_whole = (Prunable(adapter, m).velocity(drawn) for m in (thin, whole))
        free = sample.cond.free(sample.x0).expand_as(v_thin)
        squared = ((v_thin - v_whole) ** 2 * free).sum((1, 2, 3, 4)) / free.sum((1, 2, 3, 4))
    assert found == pytest.approx(float(squared.mean()), rel=1e-4) and found > 1e-4  # float32 sums
