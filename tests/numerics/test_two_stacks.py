"""Views, sweeps, taps and gates on a transformer of two stacks whose blocks hand on hidden states of the clip and of
the text: HunyuanVideo's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor, nn

from flc.api import Query, Sample, View
from flc.losses import flow_error
from flc.models.condition import Condition
from flc.models.hunyuan import HunyuanAdapter
from flc.models.prunable import Prunable
from flc.models.view import exchanged, removed, view
from flc.train.nets import RoleNet, Teacher
from tests.models.hunyuan import transformer

KEPT = {"transformer_blocks": (0, 2), "single_transformer_blocks": (0, 1, 3)}


ADAPTER = HunyuanAdapter()
ADAPTER.notes = {}


@pytest.fixture
def hunyuan(awake) -> HunyuanVideoTransformer3DModel:
    torch.manual_seed(0)
    return awake(transformer())


@pytest.fixture
def sample() -> Sample:
    g = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(2, 2, 4, 3, 4, 4, generator=g)
    text, pooled = torch.randn(3, 5, 24, generator=g), torch.randn(3, 16, generator=g)
    text[1, 3:] = 0  # its prompt is shorter
    cond = Condition(text[:2], text[2:], pooled=pooled[:2], null_pooled=pooled[2:])
    return Sample(x0, x1, torch.tensor([0.3, 0.7]), cond)


def velocity(model: nn.Module, s: Sample) -> Tensor:
    return ADAPTER.velocity(model, model, s.x0, s.t, s.cond)


@torch.no_grad()
def test_skipping_by_view_equals_removing_in_both_stacks_and_the_removed_reloads(hunyuan, sample, tmp_path):
    small = removed(hunyuan, KEPT, ADAPTER.stacks)
    with view(hunyuan, KEPT):
        skipped = velocity(hunyuan, sample)
    assert torch.equal(skipped, velocity(small, sample)) and not torch.equal(skipped, velocity(hunyuan, sample))
    small.save_pretrained(tmp_path)
    again, info = HunyuanVideoTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (again.config.num_layers, again.config.num_single_layers) == (2, 3)
    assert torch.equal(velocity(again, sample), skipped)


@torch.no_grad()
@pytest.mark.parametrize("kept", [None, KEPT])
def test_the_sweep_of_each_stack_equals_skipping_each_block_alone(hunyuan, sample, kept):
    model, calls = Prunable(ADAPTER, hunyuan), []
    blocks = [*hunyuan.transformer_blocks, *hunyuan.single_transformer_blocks]
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in blocks]
    swept = list(model.skip_each(sample, kept))
    for hook in hooks:
        hook.remove()
    assert model.evaluations == len(calls)
    whole = model.full if kept is None else kept
    assert [key for key, _ in swept] == [None, *((s, i) for s in whole for i in whole[s])]
    for key, v in swept:
        left = {s: tuple(i for i in blocks if (s, i) != key) for s, blocks in whole.items()}
        assert torch.equal(v, model.velocity(sample, View(left))), key


@torch.no_grad()
def test_each_block_and_features_see_the_clips_tokens(hunyuan, sample):
    seen: list[tuple[Tensor, Tensor]] = []
    blocks = [*hunyuan.transformer_blocks, *hunyuan.single_transformer_blocks]
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append((i[0], o[0]))) for b in blocks]
    velocity(hunyuan, Sample(sample.x0, sample.x0, sample.t, sample.cond))
    for hook in hooks:
        hook.remove()
    at_x0 = Sample(sample.x0, sample.x0, sample.t, sample.cond)  # noised to itself
    measured = Prunable(ADAPTER, hunyuan).each_block(at_x0, lambda before, after: torch.stack([before, after], 1))
    assert list(measured) == [(s, i) for s, n in zip(ADAPTER.stacks, (3, 4), strict=True) for i in range(n)]
    for value, pair in zip(measured.values(), seen, strict=True):  # float32: (1 - t) x + t x
        assert torch.allclose(value, torch.stack(pair, 1), atol=1e-4)
    net = RoleNet(ADAPTER, hunyuan, hunyuan, View())
    found = net.features(sample.x0, sample.t, sample.cond, [2 / 7, 5 / 7])
    for feature, at in zip(found, (1, 4), strict=True):
        assert feature.shape == (2, 3, 4, 24) and torch.equal(feature.flatten(1, 2), seen[at][1])


def test_gate_gradients_are_slopes_in_both_stacks(hunyuan, sample):
    """Against central differences of step .02, in float32; see `test_blocks`."""

    class AtGate(nn.Module):
        def __init__(self, block: nn.Module, gate: float) -> None:
            super().__init__()
            self.block, self.gate = block, gate

        def forward(self, x: Tensor, text: Tensor, *args: Any) -> tuple[Tensor, ...]:
            new = self.block(x, text, *args)
            return tuple((1 - self.gate) * old + self.gate * n for old, n in zip((x, text), new, strict=True))

    model, h = Prunable(ADAPTER, hunyuan), 0.02
    found = model.gate_gradients(sample, flow_error)
    slopes = {}
    for stack, blocks in model.full.items():
        for i in blocks:
            sides = []
            for gate in (1 + h, 1 - h):
                changed = [AtGate(b, gate) if j == i else b for j, b in enumerate(model.stack(stack))]
                with exchanged(hunyuan, stack, changed):
                    sides.append(flow_error(sample, model.velocity(sample)))
            slopes[stack, i] = (sides[0] - sides[1]) / (2 * h)
    largest = max(float(s.abs().max()) for s in slopes.values())
    assert found.keys() == slopes.keys() and largest > 0.01
    for key, slope in slopes.items():
        assert torch.allclose(found[key], slope, atol=5e-3 * largest), key


@torch.no_grad()
@pytest.mark.parametrize("kept", [KEPT, {"transformer_blocks": (0, 1), "single_transformer_blocks": (0, 1, 2, 3)}])
def test_a_teacher_of_both_views_evaluates_each_whole(hunyuan, sample, kept):
    """Its prefix is shared in families of one stack alone."""
    queries = [Query(v, c) for v in ("pruned", "unpruned") for c in ("text", "null")]

    class Every:
        def needs(self):
            return queries

    net = RoleNet(ADAPTER, hunyuan, hunyuan, View())
    found = Teacher(net, Every(), View(kept)).evaluate(sample.x0, sample.t, sample.cond)  # type: ignore[arg-type]
    for q in queries:
        cond = sample.cond if q.condition == "text" else sample.cond.without_text()
        alone = net(sample.x0, sample.t, cond, View(kept if q.view == "pruned" else None))
        assert torch.allclose(found[q], alone, atol=2e-5), q  # float32 in larger batches
