"""Padding rows folded into one give the attention over all of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from flc.models.text_padding import BiasedCrossAttention, collapse, text_lengths


def padded(lengths, total, width=64):
    embeds = torch.zeros(len(lengths), total, width)
    for row, length in enumerate(lengths):
        embeds[row, :length] = torch.randn(length, width)
    return embeds


def test_lengths_and_bias():
    embeds = padded([3, 1], 8)
    assert text_lengths(embeds).tolist() == [3, 1]
    rows, bias = collapse(embeds, 8)
    assert rows.shape == (2, 4, 64) and torch.equal(rows, embeds[:, :4])
    expected = [[0, 0, 0, math.log(5)], [0, math.log(7), -math.inf, -math.inf]]
    assert torch.allclose(bias.flatten(1), torch.tensor(expected))


def test_full_length_text_has_nothing_to_fold():
    embeds = padded([8], 8)
    rows, bias = collapse(embeds, 8)
    assert torch.equal(rows, embeds) and not bias.any()


def test_a_recomputed_block_meets_no_bias_of_another_networks_call(adapter, wan, make_condition):
    """All networks share the processor: one whose blocks are recomputed, a call of another, then backward."""
    student, teacher = (adapter.prepare(copy.deepcopy(wan)).requires_grad_(True) for _ in range(2))
    student.enable_gradient_checkpointing()
    x, t, cond, grads = torch.randn(2, 16, 3, 4, 4), torch.full((2,), 0.5), make_condition(2), []
    for between in (False, True):
        student.zero_grad()
        loss = adapter.velocity(student, student, x, t, cond).pow(2).mean()
        if between:
            adapter.velocity(teacher, teacher, x, t, cond)
        loss.backward()
        grads.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    assert grads[0] and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("lengths", [(6, 1), (1, 1), (5, 512)])
def test_velocity_equals_the_stock_models_on_512_rows(wan, lengths):
    torch.manual_seed(1)
    x, t, embeds = torch.randn(2, 16, 3, 4, 4), torch.rand(2) * 1000, padded(lengths, 512)
    with torch.no_grad():
        stock = wan(x, t, embeds, return_dict=False)[0]
        processor = BiasedCrossAttention()
        for block in wan.blocks:
            block.attn2.set_processor(processor)
        rows, processor.bias = collapse(embeds[:, : max(lengths)], 512)
        ours = wan(x, t, rows, return_dict=False)[0]
    assert torch.allclose(ours, stock, atol=1e-4)  # float32 sums over 512 rows; velocities are of order 1
    if max(lengths) < 512:  # without the padding's weight the result is another one
        with torch.no_grad():
            processor.bias = None
            bare = wan(x, t, embeds[:, : max(lengths)], return_dict=False)[0]
        assert not torch.allclose(bare, stock, atol=1e-2)
