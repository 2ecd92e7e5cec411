"""Clips encoded once: latents and captions in a folder, and batches of them.

Those of a full-size model take tens of megabytes each: they stay in parts, files that are written once, by whichever
rank, and mapped into memory by all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from flc.api import Batch, Sample
from flc.data.source import Clip
from flc.data.texts import Texts, encode_texts
from flc.draws import StepDraws
from flc.errors import UserError
from flc.files import LIST, parse_json, read_text, whole
from flc.flow import shifted
from flc.models.folder import read_tensors

CAPTIONS = "captions.json"
PART = 16
"""Clips of a part: whole batches, and few, so that many ranks have some each."""


def parts_of(folder: Path, count: int) -> list[tuple[Path, range]]:
    """Each part's file, named after the clips that it holds, and which of `count` those are."""
    parts = [range(begin, min(begin + PART, count)) for begin in range(0, count, PART)]
    return [(folder / f"{rows.start:06d}-{rows.stop:06d}.safetensors", rows) for rows in parts]


def encode_parts(
    adapter: Any, source: Callable[[Sequence[int]], Iterator[Clip]], count: int, folder: Path, rank: int = 0,
    world: int = 1, on_clip: Any = lambda: None, batch: int = 8,
) -> None:  # fmt: skip
    """Encode this rank's share of `count` clips, every `world`-th part. Large ones take hours: a part is a file as soon
    as it is encoded, and one that is there is not encoded again.

    `source(rows)` yields the clips of those numbers, which ascend.
    """
    mine = parts_of(folder, count)[rank::world]
    missing = [(path, rows) for path, rows in mine if not path.exists()]
    for _ in range(sum(len(rows) for path, rows in mine if path.exists())):
        on_clip()
    clips = source([row for _, rows in missing for row in rows])
    for path, rows in missing:
        encoded: list[dict[str, Tensor]] = []
        said: list[str] = []
        while few := list(islice(clips, min(batch, len(rows) - len(said)))):
            encoded.append(encoded_clips(adapter, *zip(*few, strict=True)))
            said += [caption for _, caption in few]
            for _ in few:
                on_clip()
        write_part(path, gathered(encoded), said)


def encoded_clips(adapter: Any, clips: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, Tensor]:
    """Latents of clips, and what else a condition needs of their first frames."""
    videos = np.stack(clips)
    images = adapter.first_frames(videos[:, 0], videos.shape[1], captions) if adapter.needs_first_frame else {}
    return {name: value.cpu() for name, value in ({"latents": adapter.encode(videos)} | images).items()}


def gathered(encoded: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One of several; texts that are read with a first frame are zero-padded to the longest."""
    longest = max((some["text"].shape[1] for some in encoded if "text" in some), default=0)

    def whole(some: Tensor, name: str) -> Tensor:
        return pad(some, (0, 0, 0, longest - some.shape[1])) if name == "text" else some

    return {name: torch.cat([whole(some[name], name) for some in encoded]) for name in encoded[0]}


def finish_parts(folder: Path, count: int) -> None:
    """When all parts are there: `captions.json`, each clip's."""
    parts = [path for path, _ in parts_of(folder, count)]
    if lost := next((path for path in parts if not path.exists()), None):
        raise UserError(f"{lost} of another rank is not there: give an --out that all machines of the run share")
    (folder / CAPTIONS).write_text(json.dumps([caption for part in parts for caption in read_captions(part)]))


def encode(adapter: Any, clips: Sequence[Clip], folder: Path, batch: int = 8) -> None:
    """Clips at hand and their captions, by one process."""
    encode_parts(adapter, lambda rows: (clips[row] for row in rows), len(clips), folder, batch=batch)
    finish_parts(folder, len(clips))
    encode_texts(adapter, [caption for _, caption in clips], folder, seen=holds_texts(folder, len(clips)))


def write_part(path: Path, encoded: dict[str, Tensor], captions: list[str]) -> None:
    """Whole or not at all."""
    with whole(path) as half:
        save_file(encoded, half, {"captions": json.dumps(captions)})


def holds_texts(folder: Path, count: int) -> bool:
    """Whether the parts hold what a text encoder made of captions and first frames together."""
    with safe_open(parts_of(folder, count)[0][0], "pt") as file:
        return "text" in file.keys()  # noqa: SIM118  (it has no other way)


def read_captions(part: Path) -> list[str]:
    with safe_open(part, "pt") as file:
        captions: list[str] = json.loads(file.metadata()["captions"])
    return captions


def captions_of(folder: Path) -> list[str]:
    """Each clip's, of a finished folder."""
    try:
        captions: list[str] = parse_json(read_text(folder / CAPTIONS, LIST))
    except (OSError, ValueError) as error:
        text = f"{folder / CAPTIONS} is missing or damaged: remove {folder} to make it again with --resume"
        raise UserError(text) from error
    return captions


class LatentClips:
    """Encoded clips of a folder, drawn into batches."""

    def __init__(self, folder: Path, adapter: Any, negative: str = "") -> None:
        self.captions = captions_of(folder)
        files = parts_of(folder, len(self.captions))
        self.parts = [read_tensors(path) for path, _ in files]
        self.places = [(part, row) for part, (_, rows) in enumerate(files) for row in range(len(rows))]
        self.image, self.device = adapter.image_to_video, adapter.device
        # a batch's texts alone are on the device, as long as the longest of all
        self.texts = Texts(folder, self.captions, adapter, negative)
        self.longest = max([self.texts.longest, *(held["text"].shape[1] for held in self.parts if "text" in held)])

    def __len__(self) -> int:
        return len(self.places)

    def held(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """What was encoded of these clips."""
        places = [self.places[row] for row in rows]
        return gathered([{k: v[row : row + 1] for k, v in self.parts[part].items()} for part, row in places])

    def batch(self, rows: Tensor, given: Tensor | None) -> Batch:
        """Clips by row; `given` (B,) marks those whose first frame is a condition, where not all are."""
        encoded: dict[str, Any] = {name: value.to(self.device) for name, value in self.held(rows.tolist()).items()}
        x0 = encoded.pop("latents")
        cond = self.texts.condition([self.captions[row] for row in rows.tolist()])
        if encoded:
            return Batch(x0, replace(cond, **encoded).padded(self.longest))
        cond = cond.padded(self.longest)
        if not self.image or given is None:
            return Batch(x0, cond)
        return Batch(x0, replace(cond, first=x0[:, :, :1], given=given.to(self.device)))

    def random_batch(self, draws: StepDraws, size: int, given_share: float, drop_text: float = 0.0) -> Batch:
        """This rank's `size` clips of an iteration, a share of them under the null condition's text."""
        rows, u = draws.integers(size, len(self)), draws.uniform(size)
        batch = self.batch(rows, u < given_share)
        if not drop_text:
            return batch
        dropped = (draws.uniform(size) < drop_text).to(self.device)
        return replace(batch, cond=batch.cond.with_text_dropped(dropped))

    def samples(
        self, count: int, size: int, seed: int, shift: float, given_share: float = 0.5,
        times: tuple[float, float] = (0.02, 0.98),
    ) -> Iterator[Sample]:  # fmt: skip
        """`count` noised clips in batches of `size`, the same at every call: stratified shifted times, none outside
        `times`."""
        draws = StepDraws(seed, "samples", 0)
        rows, u = torch.arange(count) % len(self), draws.uniform(count)
        given = draws.uniform(count) < given_share
        for begin in range(0, count, size):
            part = slice(begin, min(begin + size, count))
            batch = self.batch(rows[part], given[part])
            t = shifted(u[part], shift).clamp(*times).to(self.device)
            yield Sample(batch.x0, draws.normal(batch.x0), t, batch.cond)
