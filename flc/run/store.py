"""Stages that runs have in common (`--store DIR`): each in a folder named by what it was made with.

A run that asks for a stage takes it from there as links; the first one that asks makes it there while others wait, so
that runs which differ in stage III train stage II once. A training that was stopped goes on there, whichever run asks
for it next. Nothing is ever removed: the folder is a cache, to be deleted by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from flc.train.launch import Ranks


def name_in_store(stage: str, made_with: Mapping[str, Any]) -> str:
    """A stage's folder, by its options and inputs without the places it ran in."""
    text = json.dumps(made_with, sort_keys=True)
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Wait until no other run makes this folder; the system lets go of it however this one ends."""
    lock = FileLock(folder.with_name(f".lock-{folder.name}"))
    if ranks.leader:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    ranks.barrier()
    try:
        yield
    finally:
        lock.release()


def link(made: Path, place: Path) -> None:
    """The folder `made` once more at `place`: the same files, where the disk can have them twice."""

    def once_more(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, target)

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(made, place, copy_function=once_more)
