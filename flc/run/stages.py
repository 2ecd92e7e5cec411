"""The stages, each a function from folders to a folder. `compress` chains them; every one has a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flc.api import RecoveryTrainer, Setting, StepDistiller, View
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips, folder_clips
from flc.errors import UserError
from flc.models.folder import check_weights, read_json
from flc.models.loaded import check_finite, check_names
from flc.models.view import removed
from flc.run.folders import run_stage
from flc.run.job import Job
from flc.schedule import FewStepSchedule

PLAN, STUDENT = "plan.json", "student.json"


def clips(job: Job, count: int, seed: int, begin: int = 0) -> Any:
    """Drawn ones from `seed`, or the user's from number `begin`: those that training has not seen come after its."""
    frames, height, width = job.size
    if job.recipe.data:
        return folder_clips(Path(job.recipe.data), count, frames, height, width, begin)
    return drawn_clips(count, frames, height, width, seed)


def prepare(job: Job) -> Path:
    """Clips encoded into latents: `latents.safetensors`, `captions.json`."""
    r, out = job.recipe, job.out / "data"
    options = {"clips": r.prepare.clips, "size": job.size, "seed": r.seed}
    inputs = {"model": job.model_folder} | ({"data": Path(r.data)} if r.data else {})

    def work(folder: Path) -> None:
        if not job.ranks.leader:
            return
        source: Any = clips(job, r.prepare.clips, r.seed)
        with job.console.bar("encode clips", r.prepare.clips) as bar:
            encode(job.adapter, source, folder, bar.advance)

    run_stage(out, options, inputs, work, job.ranks.leader)
    job.ranks.barrier()
    return out


def score(job: Job, data: Path) -> Path:
    """Stage I: which blocks stay. `plan.json` holds kept blocks, scores and what the pruner measured."""
    r, out = job.recipe, job.out / "score"
    options = {"pruner": r.pruner.model_dump(), "keep": r.keep, "seed": r.seed, **r.score.model_dump()}
    options |= {"dtype": r.dtype, "negative_prompt": r.negative_prompt}

    def work(folder: Path) -> None:
        if job.ranks.leader:
            write_plan(job, data, folder)

    run_stage(out, options, {"model": job.model_folder, "data": data}, work, job.ranks.leader)
    job.ranks.barrier()
    return out


def write_plan(job: Job, data: Path, folder: Path) -> None:
    r, latents = job.recipe, LatentClips(data, job.adapter, job.recipe.negative_prompt)
    pruner, budget = job.algorithm("pruner"), job.budget
    with job.console.bar(f"score blocks ({r.pruner.name})", 1) as bar:

        def batches(count: int) -> Any:
            bar.restart(-(-count // r.score.batch))
            for sample in latents.samples(count, r.score.batch, r.seed, job.adapter.shift):
                yield sample
                bar.advance()

        plan = pruner.plan(job.prunable, batches, budget)
    if not budget.fits(plan.kept) and sum(map(len, plan.kept.values())) > 1:
        raise UserError(f"pruner {r.pruner.name!r} kept more than --keep {r.keep} allows: report it to its author")
    weights = {s: list(w) for s, w in budget.weights.items()}
    facts = {"pruner": r.pruner.name, "keep": r.keep, "kept": plan.kept, "scores": plan.scores, "weights": weights}
    facts |= {"details": plan.details, "block_evaluations": job.prunable.evaluations}
    (folder / PLAN).write_text(json.dumps(facts, indent=1))


def read_plan(job: Job, folder: Path) -> dict[str, Any]:
    """The plan of a folder (or file), which fits the job's model."""
    path = folder / PLAN if folder.is_dir() else folder
    plan, whole = read_json(path), job.prunable.full
    if "kept" not in plan:
        raise UserError(f"{path} holds no plan (kept blocks): it is written by `flc score`")
    kept = plan["kept"]
    if not isinstance(kept, dict) or kept.keys() != whole.keys():
        raise UserError(
            f"{path}: kept must name the blocks that stay of each of this model's stacks ({', '.join(whole)})"
        )
    for stack, blocks in kept.items():
        # type(): True and 1.0 are equal to 1, too
        rising = isinstance(blocks, list) and all(type(i) is int for i in blocks) and blocks == sorted(set(blocks))
        if not rising or not blocks or blocks[0] < 0 or blocks[-1] >= len(whole[stack]):
            number = len(whole[stack])
            raise UserError(f"{path}: kept.{stack}={blocks} must be rising numbers of blocks, 0 to {number - 1}")
    return plan | {"kept": {stack: tuple(blocks) for stack, blocks in kept.items()}}


def prune(job: Job, scored: Path) -> Path:
    """The blocks outside the plan removed: a stock `transformer/` folder."""
    out = job.out / "prune"

    def work(folder: Path) -> None:
        if job.ranks.leader:
            plan = read_plan(job, scored)
            small = removed(job.adapter.transformer, plan["kept"], job.adapter.stacks)
            small.save_pretrained(folder / "transformer")  # type: ignore[operator]

    run_stage(out, {"dtype": job.recipe.dtype}, {"model": job.model_folder, "plan": scored}, work, job.ranks.leader)
    job.ranks.barrier()
    return out


def check_transformer(job: Job, folder: Path) -> Path:
    """Where the transformer of a stage's folder (or of a transformer folder itself) lies; checked without loading."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with a transformer's config.json and *.safetensors")
    path = folder / "transformer" if (folder / "transformer").exists() else folder
    check_weights(path)
    cls: Any = type(job.adapter.transformer)
    config = read_json(path / "config.json")
    if config.get("_class_name") != cls.__name__:
        raise UserError(f"{path} holds a {config.get('_class_name')}, not a {cls.__name__}")
    with torch.device("meta"):
        check_names(cls.from_config(config), path)
    return path


def load_transformer(job: Job, folder: Path) -> Any:
    """What `check_transformer` finds, ready for this adapter."""
    path = check_transformer(job, folder)
    cls: Any = type(job.adapter.transformer)
    try:
        module = cls.from_pretrained(path, torch_dtype=job.adapter.dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not load as a {cls.__name__}: {str(error).splitlines()[0]}") from error
    check_finite(module, path)
    return job.adapter.prepare(module.requires_grad_(False).eval().to(job.adapter.device))


def engine_of(job: Job) -> dict[str, Any]:
    """What decides a trained stage's rounding and the shape of its checkpoints."""
    r = job.recipe
    facts = {"engine": r.engine, "world": job.ranks.world, "dtype": r.dtype, "device": r.device.partition(":")[0]}
    return facts | ({"zero": job.zero} if r.engine == "deepspeed" else {})


def recover(job: Job, data: Path, scored: Path) -> Path:
    """Stage II: the whole network, made to work without its unimportant blocks too. `transformer/`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "recover"
    objective: RecoveryTrainer = job.algorithm("recovery")
    options = {"recovery": r.recovery.model_dump(), "seed": r.seed, **r.recover.model_dump()}
    options |= engine_of(job) | {"negative_prompt": r.negative_prompt}

    def work(folder: Path) -> dict[str, Any]:
        plan = read_plan(job, scored)
        full = View(job.prunable.full)
        objective.bind(Setting(View(plan["kept"]), full, r.steps, r.recover.iterations, None, r.recover.given_share))
        if not objective.trains:
            if job.ranks.leader:
                job.adapter.transformer.save_pretrained(folder / "transformer")
            return {}
        latents = LatentClips(data, job.adapter, r.negative_prompt)
        facts = train_stage(job, "recover", objective, job.adapter.transformer, latents, r.recover, folder, None)
        if r.engine == "deepspeed" and job.zero == 3:
            job.forget_model()  # its weights are shards now, and what follows runs on the leader alone
        return facts

    run_stage(out, options, {"model": job.model_folder, "data": data, "plan": scored}, work, job.ranks.leader)
    job.ranks.barrier()
    return out


def student_schedule(job: Job, objective: Any) -> FewStepSchedule:
    shift = objective.shift()
    return job.adapter.schedule(job.recipe.steps, job.adapter.shift if shift is None else shift, objective.sampler)


def distill(job: Job, data: Path, scored: Path, recovered: Path) -> Path:
    """Stage III: the pruned network as a few-step generator. `transformer/`, `student.json`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "distill"
    objective: StepDistiller = job.algorithm("distiller")
    composer = job.algorithm("teacher")
    guidance = job.guidance if objective.guidance() is None else objective.guidance()
    options = {"distiller": r.distiller.model_dump(), "teacher": r.teacher.model_dump(), "steps": r.steps}
    options |= {"seed": r.seed, "negative_prompt": r.negative_prompt, **r.distill.model_dump(), **engine_of(job)}
    options |= {"guidance": guidance}

    def work(folder: Path) -> dict[str, Any]:
        plan, schedule = read_plan(job, scored), student_schedule(job, objective)
        pruned, full = View(plan["kept"]), View(job.prunable.full)
        objective.bind(Setting(pruned, full, r.steps, r.distill.iterations, schedule, r.distill.given_share))
        source, facts = load_transformer(job, recovered), {}
        if objective.trains:
            latents = LatentClips(data, job.adapter, r.negative_prompt)
            facts = train_stage(job, "distill", objective, source, latents, r.distill, folder, (composer, pruned))
        elif job.ranks.leader:
            small: Any = removed(source, pruned.kept, job.adapter.stacks)
            small.save_pretrained(folder / "transformer")
        if job.ranks.leader:
            teacher = r.teacher.name if objective.trains else "none"
            declared = schedule.declaration() | {"distiller": r.distiller.name, "teacher": teacher}
            declared["guidance"] = guidance
            (folder / STUDENT).write_text(json.dumps(declared, indent=1))
        return facts

    inputs = {"model": job.model_folder, "data": data, "plan": scored, "recovered": recovered}
    run_stage(out, options, inputs, work, job.ranks.leader)
    job.ranks.barrier()
    return out
