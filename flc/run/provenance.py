"""Whether the stages that lie in a run's folder were made with what the run says now, and of each other.

A stage is done again when one of its options, or a folder that it read, is another. A command of one stage does not do
the earlier ones again; it refuses what does not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flc.errors import UserError
from flc.run.fingerprints import DONE, fingerprint_of
from flc.run.folders import PARTIAL, PLACES, as_json, check_stopped, read_mark, stopped
from flc.run.job import Job
from flc.run.stage import Stage
from flc.run.stages import PIPELINE, STAGES

#: Inputs that no stage made: as a user calls them.
FLAGS = {"model": "model", "data": "--data"}


def changed(job: Job, stages: Sequence[Stage] = PIPELINE) -> list[tuple[str, str]]:
    """(folder, option) where one of these stages is finished and was made with another value of the option (or another
    model). The leader looks, and all ranks go by what it finds."""
    return [(folder, option) for folder, option in job.ranks.agreed(lambda: found_changed(job, stages))]


def ahead(of: Stage) -> Sequence[Stage]:
    return PIPELINE[: PIPELINE.index(of)]


def found_changed(job: Job, stages: Sequence[Stage]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    known: dict[str, str] = {}  # the model is every stage's
    for stage in stages:
        place = stage.place(job)
        mark = read_mark(place / DONE) if stage.compared else None
        if mark is None:
            continue
        was, now = mark["options"], as_json(stage.made_with(job))
        found += [(place.name, key) for key in now | was if key not in PLACES and was.get(key) != now.get(key)]
        outside, read = stage.inputs(job), mark["inputs"]
        for name in [name for name in FLAGS if name not in stage.reads]:
            own = None
            if name in outside:
                own = known[name] = known.get(name) or fingerprint_of(outside[name])
            if read.get(name) != own and (name != "model" or name in read):
                found.append((place.name, FLAGS[name]))
    return found


def check_goes_on(job: Job, planned: Sequence[Stage]) -> None:
    """Refuse, before anything is written, what would throw a stopped training away: other options of its own, or of
    a stage that it rests on."""
    others = dict(changed(job))
    for stage in [stage for stage in planned if stage.trains]:
        partial = job.out / (PARTIAL + stage.place(job).name)
        check_stopped(partial, {"options": as_json(stage.made_with(job))})
        for name in [earlier.name for earlier in ahead(stage) if earlier.name in rests_on(stage)]:
            place = STAGES[name].place(job)
            if stopped(partial) and place.name in others:
                raise UserError(
                    f"{partial} holds a stopped training and rests on {place}, which was made with another "
                    f"{others[place.name]} and would be made again: go on with the former, or remove {partial}"
                )


def rests_on(stage: Stage) -> set[str]:
    """The stages that it reads, and those that these read."""
    read = {*stage.reads.values(), *stage.rests_on}
    return read.union(*(rests_on(STAGES[name]) for name in read))


def check_chain(job: Job, stage: Stage, places: Mapping[str, Path], given: Mapping[str, Path]) -> None:
    """Refuse inputs of `stage`, in `places`, of which one was made from other folders than those that lie there now.
    `given`: the user's own, by input."""
    read = {name: STAGES[made_by].place(job) for one in PIPELINE for name, made_by in one.reads.items()} | dict(given)
    own = {STAGES[name].place(job): name for name in STAGES}
    for folder in [*(STAGES[name].place(job) for name in stage.rests_on), *places.values()]:
        mark = read_mark(folder / DONE) or {"inputs": {}}
        for name, value in mark["inputs"].items():
            place = read.get(name)
            if place is not None and place.is_file():  # a plan by its file
                place = place.parent
            if place is None or not (place / DONE).exists() or fingerprint_of(place) == value:
                continue
            way_out = f"run `flc {own[folder]}` again" if folder in own else "give what belongs together"
            raise UserError(f"{folder} was made from another {place}: {way_out}")
