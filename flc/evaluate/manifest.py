"""The prompts that a suite asks for: a user's manifest, read and checked, and the clips it makes.

A manifest is a file of JSON lines, `{"prompt": ..., "image": ..., "seed": ...}`. `image` is a first frame, relative to
the manifest's folder; `seed` is that of the prompt's first clip, the others count on from it. Both may be absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flc.data.image import open_image
from flc.data.shapes import parse_caption
from flc.errors import UserError
from flc.files import LIST, parse_json, read_text

KEYS = ("prompt", "image", "seed")
SHAPE = '{"prompt": ..., "image": optional, "seed": optional}'


@dataclass(frozen=True)
class Asked:
    """One prompt of a suite. `where` names its origin in messages; without `dimensions` it counts for all of them."""

    prompt: str
    image: Path | None = None
    seed: int | None = None
    where: str = ""
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shot:
    """One clip to be made: the `number`-th of its prompt."""

    prompt: str
    number: int
    seed: int
    image: Path | None


def clip_seed(seed: int, index: int, seeds: int, number: int) -> int:
    """The seed of clip `number` of the `seeds` clips of prompt `index`: another for every clip of a run."""
    return seed * 1_000_003 + index * seeds + number


def shots(asked: Sequence[Asked], seeds: int, seed: int) -> list[Shot]:
    """`seeds` clips of every prompt, in the manifest's order."""
    return [
        Shot(a.prompt, n, clip_seed(seed, index, seeds, n) if a.seed is None else a.seed + n, a.image)
        for index, a in enumerate(asked)
        for n in range(seeds)
    ]


def digest(asked: Sequence[Asked]) -> str:
    """A fingerprint of prompts, seeds and images."""
    out = hashlib.sha256()
    for a in asked:
        out.update(repr((a.prompt, a.seed, a.dimensions)).encode())
        if a.image is not None:
            out.update(hashlib.sha256(a.image.read_bytes()).digest())
    return out.hexdigest()


def read_manifest(path: Path) -> list[Asked]:
    """The lines of a manifest; `UserError` names the first that is wrong."""
    try:
        lines = read_text(path, LIST).split("\n")
    except OSError as error:
        raise UserError(f"--manifest {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--manifest {path} is not a text file: give JSON lines of {SHAPE}") from error
    asked = [_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not asked:
        raise UserError(f"--manifest {path} is empty: give JSON lines of {SHAPE}")
    return asked


def _line(path: Path, number: int, line: str) -> Asked:
    where = f"{path} line {number}"
    try:
        entry: Any = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}): give {SHAPE}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        raise UserError(f"{where} has no prompt: give {SHAPE}")
    try:
        entry["prompt"].encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: prompt is not text: half of a surrogate pair at {error.start}") from error
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise UserError(f"{where} has an unknown key {unknown[0]!r}: there are {', '.join(KEYS)}")
    image, seed = entry.get("image"), entry.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise UserError(f"{where}: seed {seed!r} is not a whole number from 0")
    if image is not None and not isinstance(image, str):
        raise UserError(f"{where}: image {image!r} is not a path")
    place = None if image is None else path.parent / image
    if place is not None:
        open_image(place, f"{where}: ")
    return Asked(entry["prompt"], place, seed, where)


def check_captions(asked: Sequence[Asked]) -> None:
    """The shapes suite knows what a clip should show from its caption alone."""
    for a in asked:
        try:
            parse_caption(a.prompt)
        except ValueError as error:
            raise UserError(f"{a.where}: {error}, which --suite shapes needs") from error


def check_given(asked: Sequence[Asked], suite: str, image_to_video: bool, needed: bool = False) -> None:
    """First frames where the suite and the model take them, and nowhere else; `needed`: by the model, of every clip."""
    if suite == "vbench" and needed:
        raise UserError("--suite vbench gives no first frame, which this model needs: use --suite vbench-i2v")
    if suite == "vbench-i2v" and not image_to_video:
        raise UserError("--suite vbench-i2v needs a model that takes a first frame: use --suite vbench")
    for a in asked:
        if suite == "vbench-i2v" and a.image is None:
            raise UserError(f"{a.where} has no image, which --suite vbench-i2v needs")
        if suite == "vbench" and a.image is not None:
            raise UserError(f"{a.where} has an image, which --suite vbench does not take: use --suite vbench-i2v")
        if a.image is None and needed:
            raise UserError(f"{a.where} has no image, and this model needs a first frame")
        if a.image is not None and not image_to_video:
            raise UserError(f"{a.where} has an image, and this model takes no first frame")
