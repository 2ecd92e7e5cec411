"""Views equal removal, bit for bit; taps and injections are free; a removed model reloads clean."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from flc.api import Query, Sample, View
from flc.draws import StepDraws
from flc.models.prunable import Prunable
from flc.models.view import Inject, Sweep, Tapped, exchanged, removed, view
from flc.registry import create
from flc.train.nets import RoleNet, Teacher

KEPT = {"blocks": (0, 2, 4)}
DEPTH = {"blocks": "num_layers"}


def inputs(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 16, 3, 4, 4, generator=g)
    return x, torch.rand(2, generator=g) * 1000, torch.randn(2, 7, 64, generator=g)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_skipping_by_view_equals_removing_with_gradients_on_kept_blocks_only(wan, checkpointing):
    small = removed(wan, KEPT, DEPTH)
    for model in (wan, small):
        model.requires_grad_(True).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
    with view(wan, KEPT):
        skipped = wan(*inputs(), return_dict=False)[0]
    cut = small(*inputs(), return_dict=False)[0]
    assert torch.equal(skipped, cut)
    skipped.square().mean().backward()
    cut.square().mean().backward()
    for new, old in enumerate(KEPT["blocks"]):
        pairs = zip(wan.blocks[old].parameters(), small.blocks[new].parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    assert all(p.grad is None for i in (1, 3) for p in wan.blocks[i].parameters())


def test_a_view_is_undone_after_an_error(wan):
    before = list(wan.blocks)
    with pytest.raises(RuntimeError, match="inside"), view(wan, KEPT):
        raise RuntimeError("inside")
    assert [id(b) for b in wan.blocks] == [id(b) for b in before]


def test_a_removed_model_reloads_with_no_missing_and_no_unexpected_key(wan, tmp_path):
    small = removed(wan, KEPT, DEPTH)
    small.save_pretrained(tmp_path)
    again, info = WanTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert again.config.num_layers == 3 and len(again.blocks) == 3
    assert wan.config.num_layers == 5, "the original's config must not change"
    with torch.no_grad():
        assert torch.equal(again(*inputs(), return_dict=False)[0], small(*inputs(), return_dict=False)[0])


@torch.no_grad()
def test_prefix_and_suffix_equal_the_whole(wan):
    whole = wan(*inputs(), return_dict=False)[0]
    blocks, tap = list(wan.blocks), Tapped(wan.blocks[1])
    with exchanged(wan, "blocks", [blocks[0], tap, *blocks[2:]]):
        assert torch.equal(wan(*inputs(), return_dict=False)[0], whole)
    with exchanged(wan, "blocks", [Inject(tap.after), *blocks[2:]]):
        assert torch.equal(wan(*inputs(), return_dict=False)[0], whole)


@torch.no_grad()
def test_the_sweep_equals_skipping_each_block_alone_and_costs_n_n_plus_1_over_2(wan):
    sweep = Sweep(list(wan.blocks))
    with exchanged(wan, "blocks", [sweep]):
        whole = wan(*inputs(), return_dict=False)[0]
    assert torch.equal(whole, wan(*inputs(), return_dict=False)[0])
    assert sweep.evaluations == 5 * 6 // 2
    for i, hidden in enumerate(sweep.variants):
        with exchanged(wan, "blocks", [Inject(hidden)]):
            swept = wan(*inputs(), return_dict=False)[0]
        with view(wan, {"blocks": tuple(j for j in range(5) if j != i)}):
            assert torch.equal(swept, wan(*inputs(), return_dict=False)[0])


@torch.no_grad()
def test_the_model_can_be_used_while_its_blocks_are_skipped_and_the_loop_be_left(adapter, wan, make_condition):
    model, before = Prunable(adapter, adapter.prepare(wan)), list(wan.blocks)
    x0, x1 = torch.randn(2, 2, 16, 3, 4, 4)
    sample = Sample(x0, x1, torch.tensor([0.3, 0.7]), make_condition(2))
    expected, whole = list(model.skip_each(sample)), model.velocity(sample)
    met = 0
    for (key, v), (same, again) in zip(model.skip_each(sample), expected, strict=True):
        assert all(a is b for a, b in zip(wan.blocks, before, strict=True)), key
        assert torch.equal(model.velocity(sample), whole), "asked for between two skips"
        assert key == same and torch.equal(v, again)
        met += 1
    assert met == 6
    abandoned = model.skip_each(sample, KEPT)
    next(abandoned), next(abandoned)
    assert all(a is b for a, b in zip(wan.blocks, before, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kept", [(0, 2, 4), (0, 1, 2), (1, 2, 3, 4), (0, 1, 2, 3, 4)])
def test_sharing_the_teachers_prefix_changes_nothing(adapter, wan, make_condition, kept):
    """(1, 2, 3, 4) has no common prefix; (0..4) is the whole network."""
    adapter.prepare(wan)
    cond, x, t = make_condition(4), torch.randn(4, 16, 3, 4, 4), torch.tensor([0.2, 0.5, 0.7, 0.9])
    composer = create("teacher", "well-guided")
    teacher = Teacher(RoleNet(adapter, wan, wan, View()), composer, View({"blocks": kept}))
    shared = teacher.evaluate(x, t, cond)
    teacher.share_prefix = False
    apart = teacher.evaluate(x, t, cond)
    for query in composer.needs():
        # a larger batch changes the order of float32 sums in matrix products
        assert torch.allclose(shared[query], apart[query], atol=2e-5)
    net = RoleNet(adapter, wan, wan, View())
    alone = net(x, t, cond.without_text(), View({"blocks": kept}))
    assert torch.allclose(shared[Query("pruned", "null")], alone, atol=2e-5)
    if len(kept) < 5:
        assert not torch.allclose(shared[Query("pruned")], shared[Query("unpruned")], atol=1e-2)
    assert torch.equal(teacher(x, t, cond, StepDraws(0, "t", 1)), teacher(x, t, cond, StepDraws(0, "t", 1)))
