"""ICMD's parts: error split into content and motion, heads that see frames and their order."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from flc.api import Budget, Sample, View
from flc.errors import UserError
from flc.flow import noised
from flc.models.condition import Condition
from flc.registry import create, registry

B, C, F, H = 4, 2, 5, 3
FREE = torch.ones(B, 1, F, 1, 1)


def parts(error: Tensor, free: Tensor = FREE) -> tuple[Tensor, Tensor]:
    import flc_baselines.icmd

    return flc_baselines.icmd.content_and_motion(error, free)


def errors() -> Tensor:
    return torch.randn(B, C, F, H, H, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_content_and_motion_add_up_to_the_mean_square():
    content, motion = parts(errors())
    assert torch.allclose(content + motion, errors().pow(2).mean((1, 2, 3, 4)), atol=1e-14)  # float64
    assert content.min() > 0 and motion.min() > 0


def test_an_error_that_stays_is_content_and_one_that_averages_out_is_motion():
    still = errors()[:, :, :1].expand(B, C, F, H, H)
    content, motion = parts(still)
    assert torch.allclose(content, still.pow(2).mean((1, 2, 3, 4))) and motion.max() < 1e-30  # squares of float64
    moving = errors() - errors().mean(2, keepdim=True)
    content, motion = parts(moving)
    assert content.max() < 1e-30 and torch.allclose(motion, moving.pow(2).mean((1, 2, 3, 4)))


def test_a_given_frame_is_in_neither():
    free = FREE.clone()
    free[:, :, 0] = 0
    spoilt = errors()
    spoilt[:, :, 0] = 1000
    content, motion = parts(spoilt, free)
    rest = errors()[:, :, 1:]
    assert torch.allclose(content + motion, rest.pow(2).mean((1, 2, 3, 4)), atol=1e-14)


class TwoKinds:
    """Without block 0 every frame's x0 is off by one number; without block 1 each frame by another, 0 on average."""

    weights: ClassVar = {"blocks": (1, 1)}

    def skip_each(self, s: Sample):
        off = torch.linspace(-1, 1, F).view(1, 1, F, 1, 1)
        for block, error in ((None, 0.1 + 0.1 * off), (("blocks", 0), 0.3 + 0.1 * off), (("blocks", 1), 0.1 + off)):
            x_t = noised(s.x0, s.x1, s.t)
            yield block, (x_t - s.x0 - error) / s.t.view(-1, 1, 1, 1, 1)  # x0_hat = x_t - t v is off by `error`


def test_a_block_is_scored_by_what_its_absence_does_to_content_and_to_motion():
    """Content: .1^2 with all blocks, 9 and 1 times that without either. Motion: in the same places 1 and 100 times."""

    def batches(count: int):
        x0, x1 = torch.randn(2, count, C, F, H, H, generator=torch.Generator().manual_seed(0))
        yield Sample(x0, x1, torch.full((count,), 0.5), Condition(torch.zeros(count, 1, 1), torch.zeros(1, 1, 1)))

    def plan(motion: float):
        return create("pruner", "icmd", {"samples": 4, "motion": motion}).plan(TwoKinds(), batches, budget)  # type: ignore[arg-type]

    budget = Budget(0.5, TwoKinds.weights)
    details = plan(0.75).details
    for kind, expected in (("content", [9, 1]), ("motion", [1, 100])):
        assert torch.allclose(torch.tensor(details[kind]["blocks"]), torch.tensor(expected).float(), rtol=1e-3), kind
    assert plan(0.75).kept == {"blocks": (1,)} and plan(0.0).kept == {"blocks": (0,)}


def heads() -> tuple[torch.nn.Module, torch.nn.Module]:
    registry().load("recovery", "icmd")
    import flc_baselines.heads

    torch.manual_seed(0)
    return flc_baselines.heads.SpatialHead(8), flc_baselines.heads.TemporalHead(8)


@torch.no_grad()
def test_an_order_of_frames_is_for_the_temporal_head_alone():
    hidden, order = torch.randn(B, F, 6, 8), torch.tensor([3, 0, 4, 1, 2])
    spatial, temporal = heads()
    assert torch.allclose(spatial(hidden[:, order]), spatial(hidden)[:, order], atol=1e-6)  # float32 in other batches
    there, here = temporal(hidden).sort(1).values, temporal(hidden[:, order]).sort(1).values
    assert (there - here).abs().max() > 1e-2, "not even the set of logits stays"


@torch.no_grad()
def test_no_head_sees_the_order_of_a_frames_tokens():
    hidden = torch.randn(B, F, 6, 8)
    for head in heads():
        assert torch.allclose(head(hidden), head(hidden.flip(2)), atol=1e-6)  # float32 sums in another order


@pytest.mark.parametrize("depths", ["[]", "[0.0]", "[1.5]", "[1.0, 0.5]", "[0.5, 0.5]"])
def test_depths_that_no_network_has_are_refused_in_one_line(depths):
    for kind, name in (("recovery", "icmd"), ("distiller", "dmd2")):
        with pytest.raises(UserError, match=rf"{kind}.depths.*shares in \(0, 1\], ascending"):
            create(kind, name, {"depths": json.loads(depths)})  # type: ignore[arg-type]


def test_surviving_blocks_are_compared_with_themselves():
    from flc.api import Setting

    icmd = create("recovery", "icmd")
    icmd.bind(Setting(View({"blocks": (0, 2, 5)}), View({"blocks": (0, 1, 2, 3, 4, 5)}), 4, 1))
    here, there = icmd.surviving()
    assert [round(d * 3) for d in here] == [1, 2, 3] and [round(d * 6) - 1 for d in there] == [0, 2, 5]
    two = View({"double": (0, 2), "single": (1,)}), View({"double": (0, 1, 2), "single": (0, 1)})
    icmd.bind(Setting(*two, 4, 1))
    here, there = icmd.surviving()
    assert [round(d * 3) for d in here] == [1, 2, 3] and [round(d * 5) - 1 for d in there] == [0, 2, 4]
