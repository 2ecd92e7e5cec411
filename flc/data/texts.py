"""Captions encoded once: beside the clips' latents, in files that ranks write in turn and all map into memory.

A long caption takes megabytes, and its encoder is larger than most networks here: neither is for every rank, nor for
every stage, to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flc.errors import UserError
from flc.files import whole
from flc.models.condition import Condition
from flc.models.folder import read_tensors
from flc.models.text_padding import text_lengths

TOGETHER = 32
"""Captions of a file, encoded in one batch."""


def files_of(folder: Path, captions: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """Each file, and the captions that it holds: every one once, in the order of their first clips."""
    known = list(dict.fromkeys(captions))
    begins = range(0, len(known), TOGETHER)
    return [(folder / f"texts-{begin:06d}.safetensors", known[begin : begin + TOGETHER]) for begin in begins]


def encode_texts(
    adapter: Any, captions: Sequence[str], folder: Path, rank: int = 0, world: int = 1,
    on_file: Callable[[], Any] = lambda: None, seen: bool = False,
) -> None:  # fmt: skip
    """Encode this rank's share of the captions, every `world`-th file. `seen`: the clips hold the texts already, read
    together with their first frames, and only what is pooled of the captions is missing."""
    for path, said in files_of(folder, captions)[rank::world]:
        if not path.exists():
            cond = adapter.condition(said)
            lengths = text_lengths(cond.text).clamp(min=1).tolist()
            held: dict[str, Tensor] = {}
            for row, length in enumerate(lengths):
                held |= {} if seen else {f"{row}.text": cond.text[row, :length].cpu().clone()}
                held |= {} if cond.pooled is None else {f"{row}.pooled": cond.pooled[row].cpu().clone()}
            with whole(path) as half:
                save_file(held, half)
        on_file()


def check_texts(folder: Path, captions: Sequence[str]) -> None:
    """`UserError` unless all files are there."""
    if lost := next((path for path, _ in files_of(folder, captions) if not path.exists()), None):
        raise UserError(f"{lost} of another rank is not there: give an --out that all machines of the run share")


class Texts:
    """The encoded captions of a folder."""

    def __init__(self, folder: Path, captions: Sequence[str], adapter: Any, negative: str = "") -> None:
        self.nothing: Condition = adapter.condition([""], negative)
        self.device, self.rows = adapter.device, dict[str, dict[str, Tensor]]()
        for path, said in files_of(folder, captions):
            held = read_tensors(path)
            for row, caption in enumerate(said):
                names = [name for name in ("text", "pooled") if f"{row}.{name}" in held]
                self.rows[caption] = {name: held[f"{row}.{name}"] for name in names}
        lengths = [len(row["text"]) for row in self.rows.values() if "text" in row]
        self.longest = max([self.nothing.text.shape[1], *lengths])

    def condition(self, captions: Sequence[str]) -> Condition:
        """What `ModelAdapter.condition` makes of them; without the text where the clips hold it."""
        rows = [self.rows[caption] for caption in captions]
        found: dict[str, Any] = {}
        if "text" in rows[0]:
            found["text"] = nn.utils.rnn.pad_sequence([row["text"] for row in rows], batch_first=True)
        if "pooled" in rows[0]:
            found["pooled"] = torch.stack([row["pooled"] for row in rows])
        found = {name: x.to(self.device) for name, x in found.items()}
        return replace(self.nothing, **{"text": self.nothing.text.expand(len(rows), -1, -1), **found})
