"""What a velocity is conditioned on: text, and for image-to-video the given first latent frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Condition:
    """text (B, L, D) is zero after each prompt's end; null (1, L', D) encodes the empty (or negative) prompt;
    first (B, C, 1, H, W) holds clean first latent frames, used where given (B,) is true; pooled (B, P) and null_pooled
    (1, P) are one vector for each text, of families that have a second encoder."""

    text: Tensor
    null: Tensor
    first: Tensor | None = None
    given: Tensor | None = None
    pooled: Tensor | None = None
    null_pooled: Tensor | None = None

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
        each = (self.first, self.given, self.pooled)
        first, given, pooled = (None if part is None else part[index] for part in each)
        return replace(self, text=self.text[index], first=first, given=given, pooled=pooled)

    def free(self, x: Tensor) -> Tensor:
        """(B, 1, F, 1, 1): 0 on given frames, 1 elsewhere."""
        mask = torch.ones(x.shape[0], 1, x.shape[2], 1, 1, device=x.device, dtype=x.dtype)
        if self.given is not None:
            mask[:, :, 0] = (~self.given).to(x.dtype).view(-1, 1, 1, 1)
        return mask

    def clamp(self, x: Tensor) -> Tensor:
        """x with given frames replaced by their clean values."""
        if self.given is None or self.first is None:
            return x
        replaced = torch.where(self.given.view(-1, 1, 1, 1, 1), self.first.to(x.dtype), x[:, :, :1])
        return torch.cat([replaced, x[:, :, 1:]], dim=2)


def join(parts: list[Condition]) -> Condition:
    """Conditions of one kind, one after another; texts are zero-padded to the longest."""
    longest = max(p.text.shape[1] for p in parts)

    def whole(name: str) -> Tensor | None:
        held = [getattr(p, name) for p in parts]
        return None if held[0] is None else torch.cat(held)

    text = torch.cat([p.padded(longest).text for p in parts])
    return replace(parts[0], text=text, first=whole("first"), given=whole("given"), pooled=whole("pooled"))
