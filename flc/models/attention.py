"""How much of self-attention leaves the query's own frame, measured beside the untouched forward pass.

Fused attention kernels return no map, so queries and keys are computed again for a few queries. The share that
crosses frames is divided by (F-1)/F, its value under uniform attention over F frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from flc.errors import UserError


def cross_frame_share(attention: Tensor, query_frames: Tensor, frames: int) -> Tensor:
    """(B, heads): attention (B, heads, Q, K) sums to 1 over keys; keys run over whole frames in turn."""
    by_frame = attention.unflatten(-1, (frames, -1)).sum(-1)
    own = by_frame.gather(-1, query_frames.view(1, 1, -1, 1).expand(*by_frame.shape[:2], -1, 1))
    return (1 - own.squeeze(-1)).mean(2) * frames / (frames - 1)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of (B, tokens, heads, channels): pairs of neighbouring channels. Cosines and sines stand twice,
    once for each of a pair, with axes for B and heads or (Hunyuan) without."""
    rotary = tuple(part if part.ndim == 4 else part[None, :, None] for part in rotary)  # type: ignore[assignment]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


class Recorder(ABC):
    """A look at the attention among the tokens of a clip, for a stock processor's subclass."""

    def __init__(self, frames: int, queries: int) -> None:
        super().__init__()
        self.frames, self.queries = frames, queries
        self.share: Tensor | None = None

    @abstractmethod
    def projected(self, attn: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, tokens, heads, channels), normed."""

    def measure(self, attn: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        tokens = hidden.shape[1]
        chosen = torch.linspace(0, tokens - 1, min(self.queries, tokens), device=hidden.device).round().long()
        attention = self.attention(attn, hidden, rotary, chosen)
        return cross_frame_share(attention, chosen // (tokens // self.frames), self.frames)

    def attention(self, attn: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], chosen: Tensor) -> Tensor:
        """(B, heads, Q, tokens) of the chosen queries, in float32."""
        q, k = (rotated(part, rotary).transpose(1, 2).float() for part in self.projected(attn, hidden))
        return (q[:, :, chosen] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


class WanRecorder(Recorder, WanAttnProcessor):
    """Norms of queries and keys run over all heads."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        self.share = self.measure(attn, hidden_states, rotary_emb)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)

    def projected(self, attn: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        q, k = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        return q.unflatten(2, (attn.heads, -1)), k.unflatten(2, (attn.heads, -1))


class HunyuanRecorder(Recorder, HunyuanVideoAttnProcessor2_0):
    """Attention is joint with the text's tokens: what is looked at is how that among the clip's own is spread. Norms
    run over each head."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        self.share = self.measure(attn, hidden_states, image_rotary_emb)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)

    def projected(self, attn: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (layer(hidden).unflatten(2, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k))
        return attn.norm_q(q), attn.norm_k(k)


@contextmanager
def recording(
    attentions: Mapping[tuple[str, int], Any], recorder: type[Recorder], frames: int, queries: int
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Processors of each block's self-attention exchanged for the length of one forward; the shares are there
    afterwards."""
    if frames < 2:
        raise UserError("clips of one latent frame have no attention across frames: give more --frames")
    before = {key: attn.processor for key, attn in attentions.items()}
    recorders = {key: recorder(frames, queries) for key in attentions}
    shares: dict[tuple[str, int], Tensor] = {}
    try:
        for key, attn in attentions.items():
            attn.set_processor(recorders[key])
        yield shares
        shares |= {key: r.share for key, r in recorders.items() if r.share is not None}
    finally:
        for key, attn in attentions.items():
            attn.set_processor(before[key])
