"""Stage I's work: a pruner's plan, of the model as it is or of what some iterations of stage II make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flc.api import Draws, Kept, PrunePlan, Sample, Setting, View
from flc.data.latents import LatentClips
from flc.draws import StepDraws
from flc.errors import PluginError, UserError
from flc.models.channels import narrowed
from flc.models.prunable import Prunable
from flc.run.derived import iterations_before, sigmas_of
from flc.run.job import Job
from flc.run.objectives import failed, named
from flc.run.plan import fitting
from flc.run.weights import load_transformer

#: Clips that the removal of a plan's blocks is measured on, whatever the pruner looked at.
REMOVAL_CLIPS = 64
Batches = Callable[[int], Iterator[Sample]]
T = TypeVar("T")


def make_plan(job: Job, data: Path, folder: Path, trial: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan, and the facts of the training before it where there is one, whose network goes to `folder`. The same
    on every rank: they share the clips of a batch, which has one for each rank at the least."""
    pruner, before = job.algorithm("pruner"), 0 if trial else iterations_before(job)
    facts: dict[str, Any] = {}
    model, looked = prunable(job, job.adapter.transformer), 0
    if before:
        with noised_clips(job, data) as batches:
            removable = of_plugin(job, lambda: checked_removable(pruner.removable(model, batches, job.budget), job))
        facts, looked = train_before(job, data, folder, before, removable), model.evaluations
        model = prunable(job, load_transformer(job, folder))
    with noised_clips(job, data) as batches:
        plan = planned(job, pruner, model, batches)
        evaluations = looked + model.evaluations
        removal = removal_error(job, plan, batches)
        if before:
            removal["trained"] = model.x0_error(batches(REMOVAL_CLIPS), View(plan.kept))
    return plan_facts(job, plan, evaluations, removal) | {"after": before}, facts


@contextmanager
def noised_clips(job: Job, data: Path) -> Iterator[Batches]:
    """What a pruner asks for clips, with a bar that shows how far they are."""
    r, latents, size = job.recipe, LatentClips(data, job.adapter, job.recipe.negative_prompt), clips_at_once(job)
    with job.console.bar(f"score blocks ({r.pruner.name})", 1) as bar:

        def batches(count: int) -> Iterator[Sample]:
            bar.restart(-(-count // size))
            times = r.score.time_min, r.score.time_max
            for sample in latents.samples(count, size, r.seed, job.adapter.shift, r.share_scored, times):
                yield sample
                bar.advance()

        yield batches


def clips_at_once(job: Job) -> int:
    return max(job.recipe.score.batch, job.ranks.world)


def prunable(job: Job, transformer: Any) -> Prunable:
    own = job.prunable
    return Prunable(job.adapter, transformer, own.checkpointing, own.spread, sigmas_of(job))


def train_before(job: Job, data: Path, folder: Path, iterations: int, removable: Kept) -> dict[str, Any]:
    """The first iterations of stage II, random blocks away in each; writes `transformer/`. Returns facts."""
    from flc.train.stage import train_stage

    r, budget, objective = job.recipe, job.budget, job.algorithm("recovery")
    own = r.recover.model_copy(update={"iterations": iterations})

    def draw(rng: Draws) -> View:
        return View(budget.at_random(rng, removable))

    one = draw(StepDraws(r.seed, "score", iterations))
    objective.bind(Setting(one, View(job.prunable.full), r.steps, iterations, None, own.given_share, draw))
    latents, source = LatentClips(data, job.adapter, r.negative_prompt), job.adapter.transformer
    left = r.recover.iterations - iterations
    facts = train_stage(job, "score", objective, source, latents, own, folder, None, after=left)
    if r.engine == "deepspeed" and job.zero == 3:
        job.forget_model()  # its weights are shards now
    job.ranks.barrier()  # the leader has written the network
    return facts


def checked_removable(removable: Kept, job: Job) -> Kept:
    """That the budget can be met without these blocks."""
    every = {stack: set(range(len(w))) for stack, w in job.budget.weights.items()}
    if removable.keys() - every.keys() or any(set(blocks) - every[s] for s, blocks in removable.items()):
        raise ValueError(f"removable() names blocks that this model has not: {dict(removable)}")
    left = {s: tuple(sorted(blocks - set(removable.get(s, ())))) or (0,) for s, blocks in every.items()}
    least = all(len(blocks) == 1 for blocks in left.values())
    if not job.budget.fits(left) and not least:
        raise ValueError("removable() names fewer blocks than the budget asks to remove")
    return removable


def plan_facts(job: Job, plan: PrunePlan, evaluations: int, removal: dict[str, float]) -> dict[str, Any]:
    """What plan.json holds; refused where more stays than the budget allows."""
    r, budget = job.recipe, job.budget
    share = budget.share(plan.kept, plan.channels)
    if not budget.fits(plan.kept, plan.channels):
        if all(len(blocks) == 1 for blocks in plan.kept.values()):
            least = "one block" + (" of each stack" if len(plan.kept) > 1 else "")
            raise UserError(f"--keep {r.keep} is less than {least}, which is {share:.3g}: give that or more")
        raise UserError(f"pruner {r.pruner.name!r} kept more than --keep {r.keep} allows: report it to its author")
    weights = {s: list(w) for s, w in budget.weights.items()}
    facts = {"pruner": r.pruner.name, "keep": r.keep, "kept": plan.kept, "scores": plan.scores, "weights": weights}
    facts |= {"share": share, "channels": plan.channels}
    facts |= {"block_evaluations": evaluations, "batch": clips_at_once(job)}
    return facts | {"details": plan.details, "removal": removal}


def removal_error(job: Job, plan: PrunePlan, batches: Batches) -> dict[str, float]:
    """The error of x0 (FastLightGen Eq 4) of the whole network and of the planned one, on the same clips: what blocks
    do one at a time does not add up."""
    transformer = narrowed(job.adapter, job.adapter.transformer, plan.channels)
    small = Prunable(job.adapter, transformer, spread=job.prunable.spread)
    pruned = small.x0_error(batches(REMOVAL_CLIPS), View(plan.kept))
    return {"clips": REMOVAL_CLIPS, "whole": job.prunable.x0_error(batches(REMOVAL_CLIPS)), "pruned": pruned}


def of_plugin(job: Job, call: Callable[[], T]) -> T:
    """What the pruner answers; what is wrong with a plugin's is said with its name."""
    try:
        return call()
    except (UserError, OSError):
        raise
    except Exception as error:
        raise PluginError(failed(named("pruner", job.recipe.pruner.name), error)) from error


def planned(job: Job, pruner: Any, model: Prunable, batches: Batches) -> PrunePlan:
    """The pruner's plan, which fits the model."""

    def made() -> tuple[PrunePlan, Any]:
        plan = pruner.plan(model, batches, job.budget)
        if not isinstance(plan, PrunePlan):
            raise TypeError(f"plan() returned {type(plan).__name__}, not an flc.api.PrunePlan")
        if wrong := [s for s, scores in plan.scores.items() if not all(map(math.isfinite, scores))]:
            raise ValueError(f"scores of {', '.join(wrong)} are not finite")
        json.dumps(plan.details)
        return plan, json.loads(json.dumps({"kept": plan.kept, "channels": plan.channels, "scores": plan.scores}))

    plan, written = of_plugin(job, made)
    fitting(job, written, named("pruner", job.recipe.pruner.name))
    return plan
