"""Families whose transformers call their blocks by name: LTX-Video's hand on the clip's hidden states, CogVideoX's the
text's, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, LTXVideoTransformer3DModel
from torch import Tensor, nn

from flc.api import Query, Sample, View
from flc.losses import flow_error
from flc.models.condition import Condition
from flc.models.prunable import Prunable
from flc.models.view import Gated, exchanged, placed
from flc.train.nets import RoleNet, Teacher

BLOCKS = 4


class LTX:
    stacks: Mapping[str, str] = {"transformer_blocks": "num_layers"}

    def make(self) -> nn.Module:
        return LTXVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
            num_layers=BLOCKS, caption_channels=16,
        )  # fmt: skip

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        seen = torch.ones(cond.text.shape[:2], dtype=torch.bool)
        size = dict(zip(("num_frames", "height", "width"), x.shape[2:], strict=True))
        tokens = x.flatten(2).mT
        return call(tokens, cond.text, t * 1000, seen, **size, return_dict=False)[0].mT.unflatten(2, x.shape[2:])

    def by_frame(self, hidden: Tensor, frames: int) -> Tensor:
        return hidden.unflatten(1, (frames, -1))


class CogVideoX(LTX):
    def make(self) -> nn.Module:
        return CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
            text_embed_dim=16, num_layers=BLOCKS, sample_width=4, sample_height=4, sample_frames=9,
            max_text_seq_length=5,
        )  # fmt: skip

    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return call(x.transpose(1, 2), cond.text, t * 1000, return_dict=False)[0].transpose(1, 2)


@pytest.fixture(params=[LTX, CogVideoX])
def family(request) -> LTX:
    return request.param()


@pytest.fixture
def network(family, awake) -> nn.Module:
    torch.manual_seed(0)
    return awake(family.make())


@pytest.fixture
def sample() -> Sample:
    g = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(2, 2, 4, 3, 4, 4, generator=g)
    text = torch.randn(3, 5, 16, generator=g)
    return Sample(x0, x1, torch.tensor([0.3, 0.7]), Condition(text[:2], text[2:]))


@torch.no_grad()
def test_the_sweep_of_blocks_called_by_name_equals_skipping_each_alone(family, network, sample):
    prunable = Prunable(family, network)
    swept, alone = dict(prunable.skip_each(sample)), dict(prunable.skip_each_naively(sample))
    assert list(swept) == list(alone) == [None, *(("transformer_blocks", i) for i in range(BLOCKS))]
    assert all(torch.equal(swept[key], alone[key]) for key in swept)


@torch.no_grad()
def test_blocks_called_by_name_are_measured_and_tapped_by_what_enters_and_leaves_them(family, network, sample):
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: Any, names: dict[str, Any], out: Any) -> None:
        seen.append((names["hidden_states"], out[0] if isinstance(out, tuple) else out))

    hooks = [b.register_forward_hook(note, with_kwargs=True) for b in network.transformer_blocks]
    at_x0 = Sample(sample.x0, sample.x0, sample.t, sample.cond)
    Prunable(family, network).velocity(at_x0)
    for hook in hooks:
        hook.remove()
    measured = Prunable(family, network).each_block(at_x0, lambda before, after: torch.stack([before, after], 1))
    assert len(measured) == len(seen) == BLOCKS
    assert all(torch.equal(m, torch.stack(pair, 1)) for m, pair in zip(measured.values(), seen, strict=True))
    [half] = RoleNet(family, network, network, View()).features(
        Prunable(family, network).velocity(at_x0), sample.t, sample.cond, [0.5]
    )
    assert half.shape[:2] == (2, 3)


def test_gates_of_blocks_called_by_name_are_slopes(family, network, sample):
    """Against central differences of step .02, in float32; see `test_blocks`."""
    prunable, h = Prunable(family, network), 0.02
    found = prunable.gate_gradients(sample, flow_error)
    slopes = {}
    for i, block in enumerate(network.transformer_blocks):
        sides = []
        for gate in (1 + h, 1 - h):
            gated = Gated(block, 2, torch.device("cpu"))
            gated.gate = torch.full_like(gated.gate, gate)
            blocks = [*network.transformer_blocks[:i], gated, *network.transformer_blocks[i + 1 :]]
            with exchanged(network, "transformer_blocks", blocks):
                sides.append(flow_error(sample, prunable.velocity(sample)))
        slopes["transformer_blocks", i] = (sides[0] - sides[1]) / (2 * h)
    largest = max(float(s.abs().max()) for s in slopes.values())
    assert found.keys() == slopes.keys() and largest > 0.01
    for key, slope in slopes.items():
        assert torch.allclose(found[key], slope, atol=5e-3 * largest), key


@torch.no_grad()
def test_a_teacher_shares_the_prefix_of_blocks_called_by_name(family, network, sample):
    class Both:
        def needs(self) -> list[Query]:
            return [Query("pruned"), Query("unpruned")]

    net, kept = RoleNet(family, network, network, View()), {"transformer_blocks": (0, 1, 3)}
    teacher = Teacher(net, Both(), View(kept))  # type: ignore[arg-type]
    shared = teacher.evaluate(sample.x0, sample.t, sample.cond)
    teacher.share_prefix = False
    apart = teacher.evaluate(sample.x0, sample.t, sample.cond)
    assert all(torch.equal(shared[query], apart[query]) for query in shared) and len(shared) == 2
    assert not torch.allclose(shared[Query("pruned")], shared[Query("unpruned")], atol=1e-3)


class Four(nn.Module):
    def forward(self, hidden: Any, text: Any = None, *, scale: Any = 1, mask: Any = None) -> Any: ...


@pytest.mark.parametrize(
    ("args", "names", "expected"),
    [
        (("h",), {}, (("h",), {})),
        ((), {"text": "e", "hidden": "h"}, (("h", "e"), {})),
        (("h",), {"mask": "m", "text": "e"}, (("h", "e"), {"mask": "m"})),
    ],
)
def test_named_arguments_come_in_the_blocks_own_order(args, names, expected):
    assert placed(Four(), args, names) == expected
