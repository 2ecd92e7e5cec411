"""What a stage reads, as a fingerprint: every byte of the files that it reads, and nothing of those that it does not.

Hashing the 28 GB of a model takes a minute, so each large file is hashed once: its digest is kept in the user's cache
beside what the file system says of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flc.data.listing import read_listing
from flc.errors import UserError
from flc.files import parse_json, read_json, read_text, write_text
from flc.models.folder import INDEX, NOTES
from flc.models.safe import components, read_files

DONE = "done.json"
LARGE = 1 << 20
"""Bytes from which on a digest is kept; smaller files are hashed each time."""
SETTLED = 2_000_000_000
"""Nanoseconds: what changed so lately may change again under the same time, which some file systems count in steps of
two seconds."""
KEPT = 50_000
"""Digests in the cache at the most, the latest ones."""


@dataclass(frozen=True)
class ClipsOf:
    """Those of a user's clips that a stage reads, by their numbers in the list; after the last comes the first."""

    data: Path
    rows: range


def fingerprint_of(place: Path | ClipsOf) -> str:
    """A file by its bytes, a stage's folder by its done.json, clips by their captions and bytes; any other folder by
    the names and bytes of what loaders read in it."""
    if isinstance(place, ClipsOf):
        listed = read_listing(place.data).rows
        chosen = [listed[row % len(listed)] for row in place.rows]
        return of_files((caption, path) for path, caption in chosen)
    if place.is_file() or (place / DONE).exists():
        file = place if place.is_file() else place / DONE
        return digests_of([file])[file]
    return of_files((str(path.relative_to(place)), path) for path in sorted(files_of(place)))


def of_files(named: Iterable[tuple[str, Path]]) -> str:
    pairs = list(named)
    digests = digests_of(path for _, path in pairs)
    return hashlib.sha256(json.dumps([(name, digests[path]) for name, path in pairs]).encode()).hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """What is read of a model's folder, or of a component's: of a pipeline the components that its index names."""
    parts = [folder]
    if (folder / INDEX).is_file():
        parts = [folder / name for name in components(read_json(folder / INDEX))]
        yield from (path for path in (folder / INDEX, folder / NOTES) if path.is_file())
    for part in parts:
        yield from read_files(part)


# -- digests of files ----------------------------------------------------------------------------------------------


def digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file."""
    known, unique = kept_digests(), list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(unique, pool.map(lambda path: digest_of(path, known), unique), strict=True))
    fresh = {str(path.absolute()): [told, digest] for path, (digest, told) in found.items() if told}
    if fresh:
        known |= fresh
        keep_digests(known)
    return {path: digest for path, (digest, _) in found.items()}


def digest_of(path: Path, known: dict[str, list[str]]) -> tuple[str, str]:
    """A file's digest; and what the file system said of it, where the two are to be kept together."""
    try:
        stat = path.stat()
        told, kept = identity(stat), known.get(str(path.absolute()))
        if kept is not None and kept[0] == told:
            return kept[1], ""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        still = identity(path.stat()) == told
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED
    return digest, told if still and settled and stat.st_size >= LARGE else ""


def identity(stat: os.stat_result) -> str:
    """Size, times and inode. The second time, of the last change of any kind, no program can set back."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "flc" / "digests.json"


@cache
def kept_digests() -> dict[str, list[str]]:
    """Of this process: those of former ones, and its own as they come. What a broken file of them says is forgotten."""
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: there is no home
        kept = parse_json(read_text(cache_file()))
        if isinstance(kept, dict):
            return {path: entry for path, entry in kept.items() if isinstance(entry, list) and len(entry) == 2}
    return {}


def keep_digests(known: dict[str, list[str]]) -> None:
    """Where nothing can be written, files are hashed again by the next process."""
    with suppress(OSError, RuntimeError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_text(cache_file(), json.dumps(dict(list(known.items())[-KEPT:])))
