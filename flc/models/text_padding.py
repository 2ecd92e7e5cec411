"""Cross-attention over padded text, without the padding.

Stock Wan pipelines pad every prompt with zero rows to 512 and do not mask them: after the text projection
the padding rows are all alike, and their number weighs on the result. The attention over n prompt rows
and m equal padding rows is exactly the attention over n + 1 rows whose last logit is raised by log m:

    sum_j exp(q k_j) v_j + m exp(q k_pad) v_pad,   m exp(z) = exp(z + log m).

On short sequences the 512 rows cost more than the video itself (a tiny-wan clip has 80 tokens); on a 14B model at
32,760 tokens they matter little. The model stays stock: only the processors of its cross-attentions are exchanged.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor


def text_lengths(embeds: torch.Tensor) -> torch.Tensor:
    """Number of rows before the zero padding of (B, L, D) embeddings: (B,) long."""
    nonzero = embeds.ne(0).any(dim=-1)
    positions = torch.arange(1, embeds.shape[1] + 1, device=embeds.device)
    return (nonzero * positions).amax(dim=1)


def collapse(embeds: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and logit bias that stand for `embeds` zero-padded to `total` rows.

    embeds (B, L, D), zero after each prompt's end, L <= total. Returns rows (B, n, D) and bias
    (B, 1, 1, n): 0 on prompt rows, log of the number of padding rows on the first one, -inf after it.
    """
    lengths = text_lengths(embeds)
    longest = int(lengths.max())
    rows = embeds[:, :longest]
    if longest < total:
        rows = torch.cat([rows, rows.new_zeros(rows.shape[0], 1, rows.shape[2])], dim=1)
    position = torch.arange(rows.shape[1], device=embeds.device)
    first_padding = position[None] == lengths[:, None]
    bias = torch.zeros(rows.shape[:2], device=embeds.device, dtype=embeds.dtype)
    bias.masked_fill_(position[None] > lengths[:, None], -math.inf)
    weight = (total - lengths).clamp(min=1).to(embeds.dtype).log()[:, None].expand_as(bias)
    bias = torch.where(first_padding, weight, bias)
    return rows, bias[:, None, None]


class BiasedCrossAttention(WanAttnProcessor):
    """The stock processor with a logit bias, shared by all cross-attentions of one model."""

    def __init__(self) -> None:
        super().__init__()
        self.bias: torch.Tensor | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        bias = None if self.bias is None else self.bias.to(hidden_states.dtype)
        return super().__call__(attn, hidden_states, encoder_hidden_states, bias, rotary_emb)
