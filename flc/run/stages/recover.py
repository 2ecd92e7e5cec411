"""Stage II: the whole network, made to work without its unimportant blocks too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flc.api import RecoveryTrainer, Setting, View
from flc.data.latents import LatentClips
from flc.errors import UserError
from flc.models.channels import narrowed
from flc.run.job import Job
from flc.run.objectives import said_of_pruned
from flc.run.plan import PLAN, original, read_plan
from flc.run.stage import Stage, engine_of, training
from flc.run.weights import load_transformer


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


class Recover(Stage):
    """`transformer/`: the whole network, as it was trained."""

    name = "recover"
    reads = {"data": "prepare", "plan": "score"}
    given = {"plan": "plan"}
    kind = "recovery"
    trains = True

    def made_with(self, job: Job) -> dict[str, Any]:
        r = job.recipe
        options = {"recovery": r.recovery.model_dump(), "seed": r.seed, "steps": r.steps, **training(r.recover)}
        return options | engine_of(job) | {"negative_prompt": r.negative_prompt}

    def check_plan(self, job: Job, scored: Path) -> None:
        spent(job, scored, read_plan(job, scored))

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> dict[str, Any]:
        from flc.train.stage import train_stage

        r, objective, scored = job.recipe, job.algorithm("recovery"), inputs["plan"]
        plan = read_plan(job, scored)
        (source, unpruned), before = original(job, plan), spent(job, scored, plan)
        if before:
            source = narrowed(job.adapter, load_transformer(job, scored), plan["channels"])
            unpruned = job.adapter.transformer
        left = r.recover.model_copy(update={"iterations": max(0, r.recover.iterations - before)})
        self.bind(job, objective, plan, left.iterations)
        if not objective.trains:
            if job.ranks.leader:
                source.save_pretrained(folder / "transformer")
            return {}
        if few := said_of_pruned(job, objective)[1]:
            job.console.warn(few)
        latents = LatentClips(inputs["data"], job.adapter, r.negative_prompt)
        facts = train_stage(job, "recover", objective, source, latents, left, folder, None, unpruned, before=before)
        if r.engine == "deepspeed" and job.zero == 3:
            job.forget_model()  # its weights are shards now, and what follows runs on the leader alone
        return facts

    def bind(self, job: Job, objective: RecoveryTrainer, plan: dict[str, Any], iterations: int) -> None:
        full, share = View(job.prunable.full), job.recipe.recover.given_share
        objective.bind(Setting(View(plan["kept"]), full, job.recipe.steps, iterations, None, share))


RECOVER = Recover()
