"""Clips into latents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flc.data.latents import PART, captions_of, encode_parts, finish_parts, holds_texts, parts_of
from flc.data.texts import check_texts, encode_texts, files_of
from flc.models.stock import at_once
from flc.run.fingerprints import ClipsOf
from flc.run.folders import FINGERPRINT, PARTIAL, fingerprint, is_done, is_done_anywhere, read_mark, without_places
from flc.run.job import Job
from flc.run.sources import clips_of_training, trained_on
from flc.run.stage import Stage
from flc.run.store import name_in_store

ENCODED = 8
"""Clips encoded at once, where so many fit."""


class Prepare(Stage):
    """Clips encoded into latents, in parts, `captions.json`, and the captions encoded. Each rank encodes its share."""

    name = "prepare"

    def inputs(self, job: Job) -> dict[str, Path | ClipsOf]:
        return super().inputs(job) | ({"data": trained_on(job)} if job.recipe.data else {})

    def made_with(self, job: Job) -> dict[str, Any]:
        """Latents are float32; captions, and what is encoded of a first frame, are in the run's precision."""
        options = {"clips": job.recipe.prepare.clips, "size": job.size, "seed": job.recipe.seed, "part": PART}
        return options | {"dtype": job.recipe.dtype}

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> None:
        rank, world, count = job.ranks.rank, job.ranks.world, job.clips_trained
        job.ranks.barrier()  # the leader has cleared or made `folder`
        with job.console.bar("encode clips", sum(len(rows) for _, rows in parts_of(folder, count)[::world])) as bar:
            source = partial(clips_of_training, job)
            few = min(ENCODED, at_once(*job.size))
            encode_parts(job.adapter, source, count, folder, rank, world, bar.advance, few)
        job.ranks.barrier()
        if job.ranks.leader:
            finish_parts(folder, count)
        job.ranks.barrier()
        captions = captions_of(folder)
        with job.console.bar("encode captions", len(files_of(folder, captions)[::world])) as bar:
            encode_texts(job.adapter, captions, folder, rank, world, bar.advance, holds_texts(folder, count))
        job.ranks.barrier()
        if job.ranks.leader:
            check_texts(folder, captions)


PREPARE = Prepare()


def places(job: Job) -> tuple[list[Path], dict[str, Any]]:
    """Where this run's latents may lie, and what those are made with. Clips are hashed where there are any."""
    final = PREPARE.place(job)
    if not any(place and place.exists() for place in (final, final.with_name(PARTIAL + final.name), job.store)):
        return [], {}
    mark = fingerprint(PREPARE.made_with(job), PREPARE.inputs(job))
    return [final, *([job.store / name_in_store(final.name, without_places(mark))] if job.store else [])], mark


def finished(job: Job) -> Path | None:
    """The folder of this run's latents, where all are encoded."""
    found, mark = places(job)
    return next((place for place in found if is_done_anywhere(place, mark)), None)


def encoded(job: Job) -> set[int]:
    """Numbers of the clips whose latents are there, of an encoding that was stopped, too."""
    found, mark = places(job)
    count, rows = job.clips_trained, set[int]()
    for place in found:
        partial_place = place.with_name(PARTIAL + place.name)
        if is_done_anywhere(place, mark) or is_done(partial_place, mark):
            return set(range(count))
        if read_mark(partial_place / FINGERPRINT) == mark:
            rows |= {row for path, part in parts_of(partial_place, count) if path.exists() for row in part}
    return rows
