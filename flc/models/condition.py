"""What a velocity is conditioned on: text, and for image-to-video the given first latent frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Condition:
    """text (B, L, D) is zero after each prompt's end; null (1, L', D) encodes the empty (or negative) prompt;
    first (B, C, 1, H, W) holds clean first latent frames, used where given (B,) is true."""

    text: Tensor
    null: Tensor
    first: Tensor | None = None
    given: Tensor | None = None

    def __len__(self) -> int:
        return self.text.shape[0]

    def without_text(self) -> Condition:
        """The null condition: the text is the empty prompt's, a given frame stays."""
        return replace(self, text=self.null.expand(len(self), -1, -1))

    def with_text_dropped(self, dropped: Tensor) -> Condition:
        """The null condition's text where `dropped` (B,) is true."""
        nothing = self.without_text()
        both = join([self, nothing]).text
        own, null = both[: len(self)], both[len(self) :]
        return replace(self, text=torch.where(dropped.view(-1, 1, 1), null, own))

    def __getitem__(self, index: Tensor | slice) -> Condition:
        first = None if self.first is None else self.first[index]
        given = None if self.given is None else self.given[index]
        return replace(self, text=self.text[index], first=first, given=given)

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
    text = torch.cat([pad(p.text, (0, 0, 0, longest - p.text.shape[1])) for p in parts])
    with_image = parts[0].given is not None
    first = torch.cat([p.first for p in parts if p.first is not None]) if with_image else None
    given = torch.cat([p.given for p in parts if p.given is not None]) if with_image else None
    return Condition(text, parts[0].null, first, given)
