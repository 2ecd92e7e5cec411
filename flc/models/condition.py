"""What a velocity is conditioned on: text, and for image-to-video the given first frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Fields that hold one row for each sample.
EACH = ("text", "first", "given", "pooled", "image_latents", "image_tokens")


@dataclass(frozen=True)
class Condition:
    """text (B, L, D) is zero after each prompt's end; null (1, L', D) encodes the empty (or negative) prompt;
    first (B, C, 1, H, W) holds clean first latent frames, used where given (B,) is true; pooled (B, P) and null_pooled
    (1, P) are one vector for each text, of families that have a second encoder; image_latents (B, C', F, H, W) and
    image_tokens (B, N, E) are of the first frame, in families that see it beside the clip and not in it. `trace` is the
    share of the first frame in the noise that all frames begin from; where there is one, those after it alone are
    walked."""

    text: Tensor
    null: Tensor
    first: Tensor | None = None
    given: Tensor | None = None
    pooled: Tensor | None = None
    null_pooled: Tensor | None = None
    image_latents: Tensor | None = None
    image_tokens: Tensor | None = None
    trace: float = 0.0

    def __len__(self) -> int:
        return self.text.shape[0]

    def without_text(self) -> Condition:
        """The null condition: the text is the empty prompt's, a given frame stays."""
        pooled = None if self.null_pooled is None else self.null_pooled.expand(len(self), -1)
        return replace(self, text=self.null.expand(len(self), -1, -1), pooled=pooled)

    def with_text_dropped(self, dropped: Tensor) -> Condition:
        """The null condition's text where `dropped` (B,) is true."""
        nothing = self.without_text()
        own, null = join([self, nothing]).text.chunk(2)
        text, pooled = torch.where(dropped.view(-1, 1, 1), null, own), self.pooled
        if pooled is not None and nothing.pooled is not None:
            pooled = torch.where(dropped.view(-1, 1), nothing.pooled, pooled)
        return replace(self, text=text, pooled=pooled)

    def padded(self, rows: int) -> Condition:
        """With texts of `rows` rows."""
        return replace(self, text=pad(self.text, (0, 0, 0, rows - self.text.shape[1])))

    def __getitem__(self, index: Tensor | slice) -> Condition:
        parts: dict[str, Any] = {name: part[index] for name in EACH if (part := getattr(self, name)) is not None}
        return replace(self, **parts)

    def free(self, x: Tensor) -> Tensor:
        """(B, 1, F, 1, 1): 0 on given frames, 1 elsewhere."""
        mask = torch.ones(x.shape[0], 1, x.shape[2], 1, 1, device=x.device, dtype=x.dtype)
        if self.given is not None:
            mask[:, :, 0] = (~self.given).to(x.dtype).view(-1, 1, 1, 1)
        return mask

    def begun(self, noise: Tensor) -> Tensor:
        """What a clip (B, C, F, H, W) begins from."""
        if not self.trace or self.first is None:
            return noise
        kept = torch.tensor(1 - self.trace, device=noise.device)  # in float32, as the stock pipeline has it
        return noise * kept + self.first.to(noise.dtype) * (1 - kept)

    def clamp(self, x: Tensor) -> Tensor:
        """x with given frames replaced by their clean values."""
        if self.given is None or self.first is None:
            return x
        replaced = torch.where(self.given.view(-1, 1, 1, 1, 1), self.first.to(x.dtype), x[:, :, :1])
        return torch.cat([replaced, x[:, :, 1:]], dim=2)


def join(parts: list[Condition]) -> Condition:
    """Conditions of one kind, one after another; texts are zero-padded to the longest."""
    longest = max(p.text.shape[1] for p in parts)
    padded = [p.padded(longest) for p in parts]
    whole: dict[str, Any] = {
        name: torch.cat([getattr(p, name) for p in padded]) for name in EACH if getattr(parts[0], name) is not None
    }
    return replace(parts[0], **whole)
