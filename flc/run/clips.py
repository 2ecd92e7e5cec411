"""Which of a run's clips are still to be decoded, and whether they can be: once, before the first stage."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flc.data.listing import read_listing
from flc.data.video import TooShort, check_video
from flc.errors import UserError
from flc.evaluate.clips import LEAST_FRAMES
from flc.run.job import Job
from flc.run.stages.prepare import encoded

NAMED = 3
"""Of the clips that are too short, how many are named."""
AGAIN = 0.1
"""Share of a clip's frames; where more of them are taken again, it is said."""


def check_videos(job: Job, stages: Collection[str]) -> None:
    """Decode what the stages will: what a file's header promises is not always there. The leader does so for all
    ranks."""
    if not job.recipe.data:
        return
    folder, (frames, *_), fps = Path(job.recipe.data), job.size, job.fps

    def frames_of(path: Path) -> int | TooShort:
        try:
            return check_video(path, *job.size, fps)
        except TooShort as error:
            return error

    def look() -> tuple[int, list[tuple[str, int]]]:
        listed, rows = read_listing(folder).rows, job.rows_read(stages)
        known = {listed[row][0] for row in encoded(job)} if rows else set()
        paths = list(dict.fromkeys(listed[row % len(listed)][0] for row in rows))
        paths = [path for path in paths if path not in known]
        found, short = dict[str, int](), list[TooShort]()
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            job.console.bar("decode clips", len(paths), passing=True) as bar,
        ):
            for path, different in zip(paths, pool.map(frames_of, paths), strict=True):
                if isinstance(different, TooShort):
                    short.append(different)
                else:
                    found[str(path)] = different
                bar.advance()
        if short:
            raise UserError(said_of_short(job, short, len(paths)))
        return len(paths), [(path, few) for path, few in found.items() if few < (1 - AGAIN) * frames]

    count, slow = job.ranks.agreed(look)
    if slow:
        path, few = min(slow, key=lambda one: one[1])
        job.console.warn(
            f"{len(slow)} of {count} clips show fewer than the model's {fps} pictures a second, so that some are taken "
            f"again: {path} shows {few / frames * fps:.3g}. Leave such clips out, or interpolate them, where motion "
            "must not falter"
        )


def said_of_short(job: Job, short: list[TooShort], count: int) -> str:
    """Which clips are shorter than the run's, and the longest size that the model takes and all of them have."""
    frames, *_ = job.size
    named = ", ".join(f"{one.path} ({one.frames})" for one in short[:NAMED])
    more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
    fits = [n for n in range(1, min(one.frames for one in short) + 1) if takes(job, n)]
    way = f", or give --frames {fits[-1]}" if fits and fits[-1] >= LEAST_FRAMES else ""
    said = f"{len(short)} of {count} clips have fewer than {frames} frames at {job.fps} a second: {named}{more}"
    return f"{said}: leave them out{way}"


def takes(job: Job, frames: int) -> bool:
    """Whether the model makes clips of so many frames."""
    try:
        job.adapter.latent_shape(frames, *job.size[1:])
    except UserError:
        return False
    return True
