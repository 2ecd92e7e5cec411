"""F3's score: how much attention leaves a frame, measured beside the stock forward pass."""

from __future__ import annotations

import pytest
import torch

from flc.api import Sample
from flc.errors import UserError
from flc.flow import noised
from flc.models.attention import WanRecorder, cross_frame_share
from flc.models.prunable import Prunable

FRAMES = 5


def sample(adapter, batch: int = 2) -> Sample:
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, batch, *adapter.latent_shape(17, 48, 48), generator=g)
    assert x0.shape[2] == FRAMES
    return Sample(x0, x1, torch.tensor([0.3, 0.8]), adapter.condition(["a red circle moving left", "a blue square"]))


def share(attention: torch.Tensor, frames: int, chosen: torch.Tensor) -> list[float]:
    return cross_frame_share(attention, chosen // (attention.shape[-1] // frames), frames).tolist()


def test_attention_within_frames_scores_0_uniform_attention_1_and_attention_elsewhere_f_over_f_minus_1():
    frames, tokens = 3, 4
    frame_of = torch.arange(frames * tokens) // tokens
    within = (frame_of[:, None] == frame_of[None]).float() / tokens
    uniform = torch.full_like(within, 1 / (frames * tokens))
    elsewhere = (frame_of[:, None] != frame_of[None]).float() / (tokens * (frames - 1))
    chosen = torch.tensor([0, 3, 5, 11])
    for attention, expected in ((within, 0.0), (uniform, 1.0), (elsewhere, 1.5)):
        found = share(attention[chosen].expand(2, 3, -1, -1), frames, chosen)
        assert found == [pytest.approx([expected] * 3, abs=1e-6)] * 2  # two clips, three heads, float32


class Witness(WanRecorder):
    """Remembers what the stock processor was given and what it returned."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        out = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        self.seen = attn, hidden_states, rotary_emb, out
        return out


@torch.no_grad()
def test_the_recorded_map_is_that_of_the_stock_attention(adapter):
    """Its map times the values is the stock output, rotary embedding and all. 1e-5 of the output's size: float32
    sums in the order of another kernel."""
    s, block = sample(adapter), adapter.transformer.blocks[0]
    before, witness = block.attn1.processor, Witness(FRAMES, 8)
    block.attn1.set_processor(witness)
    try:
        Prunable(adapter, adapter.transformer).velocity(s)
    finally:
        block.attn1.set_processor(before)
    attn, hidden, rotary, out = witness.seen
    attention = witness.attention(attn, hidden, rotary, torch.arange(hidden.shape[1]))
    assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5)
    values = attn.to_v(hidden).unflatten(2, (attn.heads, -1)).transpose(1, 2)
    again = attn.to_out[0]((attention @ values).transpose(1, 2).flatten(2))
    assert (again - out).abs().max() < 1e-5 * out.abs().max()
    unrotated = witness.attention(attn, hidden, tuple(torch.full_like(r, float(i == 0)) for i, r in enumerate(rotary)),
                                  torch.arange(hidden.shape[1]))  # fmt: skip
    assert (unrotated - attention).abs().max() > 1e-3, "positions matter to this map"


@torch.no_grad()
def test_recording_changes_no_velocity_and_is_undone(adapter):
    s, model = sample(adapter), adapter.transformer
    processors = [b.attn1.processor for b in model.blocks]
    plain, with_recorders = Prunable(adapter, model).velocity(s), []
    stock = adapter.velocity

    def watched(*inputs):
        with_recorders.append(stock(*inputs))
        return with_recorders[-1]

    adapter.velocity = watched
    try:
        shares = Prunable(adapter, model).cross_frame_attention(s, 16)
    finally:
        del adapter.velocity
    assert torch.equal(with_recorders[0], plain)
    assert [b.attn1.processor for b in model.blocks] == processors
    assert list(shares) == [("blocks", i) for i in range(len(model.blocks))]
    highest = FRAMES / (FRAMES - 1)
    assert all(v.shape == (2, 4) and float(v.min()) >= 0 and float(v.max()) <= highest for v in shares.values())


def test_recording_is_undone_after_an_error(adapter):
    processors = [b.attn1.processor for b in adapter.transformer.blocks]
    with pytest.raises(RuntimeError, match="inside"), adapter.recording_attention(FRAMES, 8):
        raise RuntimeError("inside")
    assert [b.attn1.processor for b in adapter.transformer.blocks] == processors


@torch.no_grad()
def test_all_queries_and_more_are_all_tokens(adapter):
    s, prunable = sample(adapter), Prunable(adapter, adapter.transformer)
    tokens = prunable.each_block(s, lambda before, _: before)["blocks", 0].shape[1]
    exact, more = (prunable.cross_frame_attention(s, n) for n in (tokens, 10 * tokens))
    assert all(torch.equal(exact[k], more[k]) for k in exact)


@torch.no_grad()
def test_tokens_of_a_frame_lie_together_in_the_order_of_frames(adapter):
    """What `by_frame` and the queries' frames rest on: a change of one latent frame enters its own tokens alone."""
    s = sample(adapter)
    moved = s.x0.clone()
    moved[:, :, 3] += 1
    entering = []
    for x0 in (s.x0, moved):
        prunable, at = Prunable(adapter, adapter.transformer), Sample(x0, s.x1, s.t, s.cond)
        entering.append(adapter.by_frame(prunable.each_block(at, lambda before, _: before)["blocks", 0], FRAMES))
    changed = (entering[0] - entering[1]).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [False, False, False, True, False]
    assert not torch.equal(noised(moved, s.x1, s.t), noised(s.x0, s.x1, s.t))


def test_one_latent_frame_has_no_other_to_attend_to(adapter):
    with pytest.raises(UserError, match="one latent frame"), adapter.recording_attention(1, 8):
        pass
