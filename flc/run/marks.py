"""What each stage is made with, and whether the stages that lie in a run's folder were.

The options here are the fingerprint's of `folders.run_stage`: a stage is done again when one of them, or a folder that
it read, is another. A command of one stage does not do the earlier ones again; it refuses what does not fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from flc.data.latents import PART
from flc.errors import UserError
from flc.recipe import TrainStage
from flc.run.fingerprints import DONE, ClipsOf, fingerprint_of
from flc.run.folders import (
    PARTIAL,
    PLACES,
    as_json,
    check_stopped,
    read_mark,
    stopped,
)
from flc.run.job import Job
from flc.run.plan import iterations_before, sigmas_of
from flc.train.nets import leans_on_unpruned

#: How a training is saved and shown, not what comes out of it.
QUIET = {"save_every", "log_every"}


def engine_of(job: Job) -> dict[str, Any]:
    """What decides a trained stage's rounding and the shape of its checkpoints."""
    r = job.recipe
    facts = {"engine": r.engine, "world": job.ranks.world, "dtype": r.dtype, "device": r.device.partition(":")[0]}
    return facts | ({"zero": job.zero} if r.engine == "deepspeed" else {})


def training(stage: TrainStage) -> dict[str, Any]:
    return stage.model_dump(exclude=QUIET)


def of_data(job: Job) -> dict[str, Any]:
    """Latents are float32; what is encoded of a first frame beside them is in the run's precision."""
    options = {"clips": job.recipe.prepare.clips, "size": job.size, "seed": job.recipe.seed, "part": PART}
    return options | ({"dtype": job.recipe.dtype} if job.adapter.needs_first_frame else {})


def trained_on(job: Job) -> ClipsOf:
    """Those of the user's clips that are encoded."""
    return ClipsOf(Path(job.recipe.data or ""), range(job.clips_trained))


def of_score(job: Job) -> dict[str, Any]:
    r = job.recipe
    options = {"pruner": r.pruner.model_dump(), "keep": r.keep, "seed": r.seed, **r.score.model_dump()}
    options |= {"dtype": r.dtype, "negative_prompt": r.negative_prompt, "sigmas": sigmas_of(job)}
    before = iterations_before(job)
    if not before:
        return options
    options |= {"after": before, "recovery": r.recovery.model_dump(), "recover": training(r.recover)}
    return options | engine_of(job)


def of_prune(job: Job) -> dict[str, Any]:
    return {"dtype": job.recipe.dtype}


def of_recover(job: Job) -> dict[str, Any]:
    r = job.recipe
    options = {"recovery": r.recovery.model_dump(), "seed": r.seed, "steps": r.steps, **training(r.recover)}
    return options | engine_of(job) | {"negative_prompt": r.negative_prompt}


def of_distill(job: Job) -> dict[str, Any]:
    r = job.recipe
    options = {"distiller": r.distiller.model_dump(), "teacher": r.teacher.model_dump(), "steps": r.steps}
    options |= {"seed": r.seed, "negative_prompt": r.negative_prompt, **training(r.distill)}
    return options | engine_of(job) | {"guidance": student_guidance(job), "real": real_of(job)}


def student_guidance(job: Job) -> float:
    """Standard-form scale at which the student is sampled."""
    own: float | None = job.algorithm("distiller").guidance()
    return job.guidance if own is None else own


def real_of(job: Job, narrowed: bool = False) -> str:
    """What stage III's teacher takes for the unpruned network, `original` or `recovered`. Where `distill.real` does not
    say it is the original under a plan that narrowed, of which the incoming weights hold no unpruned view; and what
    stage II says, if it trains and no low-rank branch is asked for, which lies on the incoming weights."""
    recovery, given = job.algorithm("recovery"), job.recipe.distill.real
    if given or narrowed:
        return given or "original"
    own = recovery.trains and not leans_on_unpruned(job.algorithm("teacher"))
    return str(recovery.real()) if own else "recovered"


OPTIONS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "data": of_data,
    "score": of_score,
    "prune": of_prune,
    "recover": of_recover,
    "distill": of_distill,
}


def changed(job: Job, before: str = "") -> list[tuple[str, str]]:
    """(stage, option) where a finished stage, of those ahead of `before`, was made with another value of the option
    (or another model). The leader looks, and all ranks go by what it finds."""
    return [(stage, option) for stage, option in job.ranks.agreed(lambda: found_changed(job, before))]


def found_changed(job: Job, before: str) -> list[tuple[str, str]]:
    names = list(OPTIONS)
    ahead = names[: names.index(before)] if before in names else names
    found = []
    for name in ahead:
        mark = read_mark(job.out / name / DONE)
        if mark is None:
            continue
        was, now = mark["options"], as_json(OPTIONS[name](job))
        found += [(name, key) for key in now | was if key not in PLACES and was.get(key) != now.get(key)]
        model = mark["inputs"].get("model")
        found += [(name, "model")] if model not in (None, fingerprint_of(job.model_folder)) else []
        if name == "data":
            clips = fingerprint_of(trained_on(job)) if job.recipe.data else None
            found += [(name, "--data")] if mark["inputs"].get("data") != clips else []
    return found


def check_goes_on(job: Job, planned: Collection[str]) -> None:
    """Refuse, before anything is written, what would throw a stopped training away: other options of its own, or of
    a stage that it rests on."""
    redone = {name: field for name, field in changed(job) if name != "prune"}  # no training reads that one's folder
    for name in (name for name in ("score", "recover", "distill") if name in planned):
        partial = job.out / (PARTIAL + name)
        check_stopped(partial, {"options": as_json(OPTIONS[name](job))})
        for earlier, field in redone.items():
            if stopped(partial) and list(OPTIONS).index(earlier) < list(OPTIONS).index(name):
                raise UserError(
                    f"{partial} holds a stopped training and rests on {job.out / earlier}, which was made with another "
                    f"{field} and would be made again: go on with the former, or remove {partial}"
                )


#: Which stage's folder each input of a later stage is.
INPUTS = {"data": "data", "plan": "score", "pruned": "prune", "recovered": "recover", "student": "distill"}


#: Commands that are not called as their folder is.
COMMANDS = {"pipeline": "export", "data": "score"}


def check_chain(job: Job, stages: list[Path], given: Mapping[str, Path]) -> None:
    """Refuse `stages` (folders) of which one was made from other folders than those that lie there now. `given`: the
    user's own, by input."""
    places = {name: given.get(name, job.out / stage) for name, stage in INPUTS.items()}
    for folder in stages:
        mark = read_mark(folder / DONE) or {"inputs": {}}
        for name, value in mark["inputs"].items():
            place = places.get(name)
            if place is not None and place.is_file():  # a plan by its file
                place = place.parent
            if place is None or not (place / DONE).exists() or fingerprint_of(place) == value:
                continue
            command = COMMANDS.get(folder.name, folder.name)
            way_out = f"run `flc {command}` again" if folder.parent == job.out else "give what belongs together"
            raise UserError(f"{folder} was made from another {place}: {way_out}")
