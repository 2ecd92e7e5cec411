"""Where a run's clips come from: drawn by rule, or the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flc.data.source import Clip, drawn_clips, users_clips
from flc.run.fingerprints import ClipsOf
from flc.run.job import Job


def clips(job: Job, count: int, seed: int, begin: int = 0) -> Iterator[Clip]:
    """Drawn ones from `seed`, or the user's from number `begin`: those that training has not seen come after its."""
    frames, height, width = job.size
    if job.recipe.data:
        return users_clips(Path(job.recipe.data), range(begin, begin + count), frames, height, width, job.fps)
    return drawn_clips(count, frames, height, width, seed)


def clips_of_training(job: Job, rows: Sequence[int]) -> Iterator[Clip]:
    """Of the clips that are encoded those of the numbers `rows`; of the user's each is one."""
    frames, height, width = job.size
    if job.recipe.data:
        return users_clips(Path(job.recipe.data), rows, frames, height, width, job.fps)
    return drawn_clips(job.clips_trained, frames, height, width, job.recipe.seed, rows)


def trained_on(job: Job) -> ClipsOf:
    """Those of the user's clips that are encoded."""
    return ClipsOf(Path(job.recipe.data or ""), range(job.clips_trained))
