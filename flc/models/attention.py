"""How much of Wan's self-attention leaves the query's own frame, measured beside the untouched forward pass.

Fused attention kernels return no map, so queries and keys are computed again for a few queries. The share that
crosses frames is divided by (F-1)/F, its value under uniform attention over F frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn


def cross_frame_share(attention: Tensor, query_frames: Tensor, frames: int) -> Tensor:
    """(B, heads): attention (B, heads, Q, K) sums to 1 over keys; keys run over whole frames in turn."""
    by_frame = attention.unflatten(-1, (frames, -1)).sum(-1)
    own = by_frame.gather(-1, query_frames.view(1, 1, -1, 1).expand(*by_frame.shape[:2], -1, 1))
    return (1 - own.squeeze(-1)).mean(2) * frames / (frames - 1)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding as Wan applies it: pairs of neighbouring channels (B, tokens, heads, channels)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


class Recorder(WanAttnProcessor):
    """The stock processor, with a look at its attention."""

    def __init__(self, frames: int, queries: int) -> None:
        super().__init__()
        self.frames, self.queries = frames, queries
        self.share: Tensor | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        self.share = self.measure(attn, hidden_states, rotary_emb)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)

    def measure(self, attn: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        tokens = hidden.shape[1]
        chosen = torch.linspace(0, tokens - 1, min(self.queries, tokens), device=hidden.device).round().long()
        attention = self.attention(attn, hidden, rotary, chosen)
        return cross_frame_share(attention, chosen // (tokens // self.frames), self.frames)

    def attention(self, attn: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], chosen: Tensor) -> Tensor:
        """(B, heads, Q, tokens) of the chosen queries, in float32."""
        q, k = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        q, k = (rotated(part.unflatten(2, (attn.heads, -1)), rotary).transpose(1, 2).float() for part in (q, k))
        return (q[:, :, chosen] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


@contextmanager
def recording(
    stacks: Mapping[str, Sequence[nn.Module]], frames: int, queries: int
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Self-attention processors exchanged for the length of one forward; the shares are there afterwards."""
    blocks: dict[tuple[str, int], Any] = {(s, i): b for s, bs in stacks.items() for i, b in enumerate(bs)}
    before = {key: block.attn1.processor for key, block in blocks.items()}
    recorders = {key: Recorder(frames, queries) for key in blocks}
    shares: dict[tuple[str, int], Tensor] = {}
    try:
        for key, block in blocks.items():
            block.attn1.set_processor(recorders[key])
        yield shares
        shares |= {key: r.share for key, r in recorders.items() if r.share is not None}
    finally:
        for key, block in blocks.items():
            block.attn1.set_processor(before[key])
