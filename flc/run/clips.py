"""Which of a run's clips are still to be decoded, and whether they can be: once, before the first stage."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flc.data.listing import read_listing
from flc.data.video import check_video
from flc.run.job import Job
from flc.run.stages.prepare import encoded

AGAIN = 0.1
"""Share of a clip's frames; where more of them are taken again, it is said."""


def check_videos(job: Job, stages: Collection[str]) -> None:
    """Decode what the stages will: what a file's header promises is not always there. The leader does so for all
    ranks."""
    if not job.recipe.data:
        return
    folder, (frames, *_), fps = Path(job.recipe.data), job.size, job.fps

    def look() -> tuple[int, list[tuple[str, int]]]:
        listed, rows = read_listing(folder).rows, job.rows_read(stages)
        known = {listed[row][0] for row in encoded(job)} if rows else set()
        paths = list(dict.fromkeys(listed[row % len(listed)][0] for row in rows))
        paths = [path for path in paths if path not in known]
        found = {}
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            job.console.bar("decode clips", len(paths), passing=True) as bar,
        ):
            checked = pool.map(lambda path: check_video(path, *job.size, fps), paths)
            for path, different in zip(paths, checked, strict=True):
                found[str(path)] = different
                bar.advance()
        return len(paths), [(path, few) for path, few in found.items() if few < (1 - AGAIN) * frames]

    count, slow = job.ranks.agreed(look)
    if slow:
        path, few = min(slow, key=lambda one: one[1])
        job.console.warn(
            f"{len(slow)} of {count} clips show fewer than the model's {fps} pictures a second, so that some are taken "
            f"again: {path} shows {few / frames * fps:.3g}. Leave such clips out, or interpolate them, where motion "
            "must not falter"
        )
