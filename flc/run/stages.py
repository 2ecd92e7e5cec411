"""The stages, each a function from folders to a folder. `compress` chains them; every one has a command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flc.api import RecoveryTrainer, Setting, StepDistiller, View
from flc.data.latents import LatentClips, encode_parts, finish_parts, parts_of
from flc.data.source import Clip, drawn_clips, folder_clips
from flc.errors import UserError
from flc.models.channels import narrowed
from flc.models.stock import at_once
from flc.models.view import removed
from flc.run.fingerprints import DONE, ClipsOf
from flc.run.folders import read_mark, run_stage
from flc.run.job import Job, student_schedule
from flc.run.marks import of_data, of_distill, of_prune, of_recover, of_score, real_of, student_guidance, trained_on
from flc.run.objectives import beside, said_of_pruned
from flc.run.plan import PLAN, original, read_plan
from flc.run.scoring import make_plan
from flc.run.weights import load_transformer

STUDENT = "student.json"
ENCODED = 8
"""ClipsOf encoded at once, where so many fit."""


def clips(job: Job, count: int, seed: int, begin: int = 0) -> Iterator[Clip]:
    """Drawn ones from `seed`, or the user's from number `begin`: those that training has not seen come after its."""
    frames, height, width = job.size
    if job.recipe.data:
        return folder_clips(Path(job.recipe.data), range(begin, begin + count), frames, height, width, job.fps)
    return drawn_clips(count, frames, height, width, seed)


def clips_of_training(job: Job, rows: Sequence[int]) -> Iterator[Clip]:
    """Of the clips that are encoded those of the numbers `rows`; of the user's each is one."""
    frames, height, width = job.size
    if job.recipe.data:
        return folder_clips(Path(job.recipe.data), rows, frames, height, width, job.fps)
    return drawn_clips(job.clips_trained, frames, height, width, job.recipe.seed, rows)


def prepare(job: Job) -> Path:
    """ClipsOf encoded into latents, in parts, and `captions.json`. Each rank encodes its share."""
    out = job.out / "data"
    inputs: dict[str, Path | ClipsOf] = {"model": job.model_folder}
    if job.recipe.data:
        inputs["data"] = trained_on(job)

    def work(folder: Path) -> None:
        rank, world, count = job.ranks.rank, job.ranks.world, job.clips_trained
        job.ranks.barrier()  # the leader has cleared or made `folder`
        with job.console.bar("encode clips", sum(len(rows) for _, rows in parts_of(folder, count)[::world])) as bar:
            source = partial(clips_of_training, job)
            few = min(ENCODED, at_once(*job.size))
            encode_parts(job.adapter, source, count, folder, rank, world, bar.advance, few)
        job.ranks.barrier()
        if job.ranks.leader:
            finish_parts(folder, count)

    run_stage(out, of_data(job), inputs, work, job.ranks, job.store)
    job.ranks.barrier()
    return out


def score(job: Job, data: Path, trial: bool = False) -> Path:
    """Stage I: which blocks stay. `plan.json` holds kept blocks, scores and what the pruner measured; `transformer/`
    the network that they were chosen of, where that was trained before. `trial`: as it is, without that training."""
    out = job.out / "score"

    def work(folder: Path) -> dict[str, Any]:
        plan, facts = make_plan(job, data, folder, trial)
        if job.ranks.leader:
            (folder / PLAN).write_text(json.dumps(plan, indent=1))
        return facts

    run_stage(out, of_score(job), {"model": job.model_folder, "data": data}, work, job.ranks, job.store)
    job.ranks.barrier()
    return out


def check_plan(job: Job, scored: Path) -> None:
    """What stage III would refuse of this plan, before stage II."""
    from flc.train.nets import check_apart

    narrow = read_plan(job, scored)["channels"] is not None
    if job.algorithm("distiller").trains and narrow and real_of(job, narrow) == "original":
        check_apart(job.algorithm("teacher"))


def prune(job: Job, scored: Path) -> Path:
    """The blocks outside the plan removed: a stock `transformer/` folder."""
    out = job.out / "prune"

    def work(folder: Path) -> None:
        if job.ranks.leader:
            plan = read_plan(job, scored)
            small = removed(original(job, plan)[0], plan["kept"], job.adapter.stacks)
            small.save_pretrained(folder / "transformer")  # type: ignore[operator]

    run_stage(out, of_prune(job), {"model": job.model_folder, "plan": scored}, work, job.ranks, job.store)
    job.ranks.barrier()
    return out


def spent(job: Job, scored: Path, plan: dict[str, Any]) -> int:
    """How many of stage II's iterations came before a folder's plan, whose network stage II goes on from; of a plan
    without one, none."""
    if not scored.is_dir() or not plan.get("after") or not (scored / "transformer").exists():
        return 0
    if plan["after"] >= (iterations := job.recipe.recover.iterations):
        raise UserError(
            f"{scored} was made after {plan['after']} iterations of stage II, and recover.iterations={iterations}"
            f" leaves none: give more, or the plan alone (--plan {scored / PLAN})"
        )
    return int(plan["after"])


def recover(job: Job, data: Path, scored: Path) -> Path:
    """Stage II: the whole network, made to work without its unimportant blocks too. `transformer/`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "recover"
    objective: RecoveryTrainer = job.algorithm("recovery")

    def work(folder: Path) -> dict[str, Any]:
        plan = read_plan(job, scored)
        (source, unpruned), before = original(job, plan), spent(job, scored, plan)
        if before:
            source = narrowed(job.adapter, load_transformer(job, scored), plan["channels"])
            unpruned = job.adapter.transformer
        left = r.recover.model_copy(update={"iterations": max(0, r.recover.iterations - before)})
        full = View(job.prunable.full)
        objective.bind(Setting(View(plan["kept"]), full, r.steps, left.iterations, None, left.given_share))
        if not objective.trains:
            if job.ranks.leader:
                source.save_pretrained(folder / "transformer")
            return {}
        if few := said_of_pruned(job, objective)[1]:
            job.console.warn(few)
        latents = LatentClips(data, job.adapter, r.negative_prompt)
        facts = train_stage(job, "recover", objective, source, latents, left, folder, None, unpruned, before=before)
        if r.engine == "deepspeed" and job.zero == 3:
            job.forget_model()  # its weights are shards now, and what follows runs on the leader alone
        return facts

    inputs = {"model": job.model_folder, "data": data, "plan": scored}
    run_stage(out, of_recover(job), inputs, work, job.ranks, job.store)
    job.ranks.barrier()
    return out


@contextmanager
def parked(job: Job, idle: bool) -> Iterator[None]:
    """While the model's own transformer has nothing to do it leaves the device to those that train."""
    if idle:
        job.adapter.transformer.to("cpu")
    try:
        yield
    finally:
        if idle:
            job.adapter.transformer.to(job.adapter.device)


def recovery_of(folder: Path) -> str:
    """What made the weights that stage III begins with; those of another run say it, too."""
    mark = read_mark(folder / DONE)
    return str(mark["options"].get("recovery", {}).get("name", "unknown")) if mark else "unknown"


def distill(job: Job, data: Path, scored: Path, recovered: Path) -> Path:
    """Stage III: the pruned network as a few-step generator. `transformer/`, `student.json`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "distill"
    objective: StepDistiller = job.algorithm("distiller")
    composer = job.algorithm("teacher")

    def work(folder: Path) -> dict[str, Any]:
        plan, schedule = read_plan(job, scored), student_schedule(job, objective)
        pruned, full = View(plan["kept"]), View(job.prunable.full)
        objective.bind(Setting(pruned, full, r.steps, r.distill.iterations, schedule, r.distill.given_share))
        facts: dict[str, Any] = {}
        if objective.trains:
            apart = beside(job, objective.roles(), plan["channels"] is not None)
            unpruned = job.adapter.transformer if apart else None
            with parked(job, unpruned is None):  # before the other one and the texts' encoder need the device
                latents, source = LatentClips(data, job.adapter, r.negative_prompt), load_transformer(job, recovered)
                real = (composer, pruned)
                facts = train_stage(job, "distill", objective, source, latents, r.distill, folder, real, unpruned)
            if unpruned is not None and r.engine == "deepspeed" and job.zero == 3:
                job.forget_model()
        elif job.ranks.leader:
            small: Any = removed(load_transformer(job, recovered), pruned.kept, job.adapter.stacks)
            small.save_pretrained(folder / "transformer")
        if job.ranks.leader:
            teacher = r.teacher.name if objective.trains else "none"
            declared = schedule.declaration() | {"distiller": r.distiller.name, "teacher": teacher}
            declared |= {"guidance": student_guidance(job), "recovery": recovery_of(recovered)}
            (folder / STUDENT).write_text(json.dumps(declared, indent=1))
        return facts

    inputs = {"model": job.model_folder, "data": data, "plan": scored, "recovered": recovered}
    run_stage(out, of_distill(job), inputs, work, job.ranks, job.store)
    job.ranks.barrier()
    return out
