"""Which of a run's clips are still to be decoded, and whether they can be: once, before the first stage."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flc.data.latents import parts_of
from flc.data.source import read_manifest
from flc.data.video import check_video
from flc.run.fingerprints import ClipsOf
from flc.run.folders import FINGERPRINT, PARTIAL, fingerprint, is_done, is_done_anywhere, read_mark, without_places
from flc.run.job import Job
from flc.run.marks import of_data, trained_on
from flc.run.store import name_in_store

DATA = "data"
AGAIN = 0.1
"""Share of a clip's frames; where more of them are taken again, it is said."""


def places(job: Job) -> tuple[list[Path], dict[str, object]]:
    """Where this run's latents may lie, and what those are made with. Clips are hashed where there are any."""
    final = job.out / DATA
    if not any(place and place.exists() for place in (final, final.with_name(PARTIAL + DATA), job.store)):
        return [], {}
    inputs: dict[str, Path | ClipsOf] = {"model": job.model_folder}
    if job.recipe.data:
        inputs["data"] = trained_on(job)
    mark = fingerprint(of_data(job), inputs)
    return [final, *([job.store / name_in_store(DATA, without_places(mark))] if job.store else [])], mark


def finished(job: Job) -> Path | None:
    """The folder of this run's latents, where all are encoded."""
    found, mark = places(job)
    return next((place for place in found if is_done_anywhere(place, mark)), None)


def encoded(job: Job) -> set[int]:
    """Numbers of the clips whose latents are there, of an encoding that was stopped, too."""
    found, mark = places(job)
    count, rows = job.clips_trained, set[int]()
    for place in found:
        partial = place.with_name(PARTIAL + place.name)
        if is_done_anywhere(place, mark) or is_done(partial, mark):
            return set(range(count))
        if read_mark(partial / FINGERPRINT) == mark:
            rows |= {row for path, part in parts_of(partial, count) if path.exists() for row in part}
    return rows


def check_videos(job: Job, stages: Collection[str]) -> None:
    """Decode what the stages will: what a file's header promises is not always there. The leader does so for all
    ranks."""
    if not job.recipe.data:
        return
    folder, (frames, *_), fps = Path(job.recipe.data), job.size, job.fps

    def look() -> tuple[int, list[tuple[str, int]]]:
        listed, rows = read_manifest(folder), job.rows_read(stages)
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
