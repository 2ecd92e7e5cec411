"""Files of a run, written whole or not at all: under another name, synced, renamed, and the folder synced.

After a kill, or a power cut, at any moment there is the file as it was or as it was to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """A file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


@contextmanager
def whole(path: Path, under: str = "") -> Iterator[Path]:
    """A path beside `path` to write a file at, which takes the place of `path` when the block ends without an error.
    `under` is its name, where one longer than `path`'s own would not do."""
    temporary = path.with_name(under or f".new-{path.name}")
    temporary.unlink(missing_ok=True)  # a link that lies there would be written through
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
