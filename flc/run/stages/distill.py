"""Stage III: the pruned network as a few-step generator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flc.api import Setting, StepDistiller, View
from flc.data.latents import LatentClips
from flc.models.notes import STUDENT
from flc.models.view import removed
from flc.run.derived import real_of, student_guidance, student_schedule
from flc.run.fingerprints import DONE
from flc.run.folders import read_mark
from flc.run.job import Job
from flc.run.objectives import beside
from flc.run.plan import read_plan
from flc.run.stage import Stage, engine_of, training
from flc.run.weights import check_shape, load_transformer
from flc.schedule import FewStepSchedule
from flc.train.nets import check_apart


def recovery_of(folder: Path) -> str:
    """What made the weights that stage III begins with; those of another run say it, too."""
    mark = read_mark(folder / DONE)
    return str(mark["options"].get("recovery", {}).get("name", "unknown")) if mark else "unknown"


class Distill(Stage):
    """`transformer/`, and `student.json`: how it is sampled."""

    name = "distill"
    reads = {"data": "prepare", "plan": "score", "recovered": "recover"}
    given = {"plan": "plan", "recovered": "weights"}
    kind = "distiller"
    trains = True

    def made_with(self, job: Job) -> dict[str, Any]:
        r = job.recipe
        options = {"distiller": r.distiller.model_dump(), "teacher": r.teacher.model_dump(), "steps": r.steps}
        options |= {"seed": r.seed, "negative_prompt": r.negative_prompt, **training(r.distill)}
        return options | engine_of(job) | {"guidance": student_guidance(job), "real": real_of(job)}

    def check_plan(self, job: Job, scored: Path) -> None:
        narrow = read_plan(job, scored)["channels"] is not None
        if job.algorithm("distiller").trains and narrow and real_of(job, narrow) == "original":
            check_apart(job.algorithm("teacher"))

    def check_inputs(self, job: Job, inputs: Mapping[str, Path]) -> None:
        check_shape(job, read_plan(job, inputs["plan"]), inputs["recovered"], False)

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> dict[str, Any]:
        from flc.train.stage import train_stage

        r, recovered = job.recipe, inputs["recovered"]
        objective: StepDistiller = job.algorithm("distiller")
        plan, schedule = read_plan(job, inputs["plan"]), student_schedule(job, objective)
        pruned, full = View(plan["kept"]), View(job.prunable.full)
        objective.bind(Setting(pruned, full, r.steps, r.distill.iterations, schedule, r.distill.given_share))
        facts: dict[str, Any] = {}
        if objective.trains:
            apart = beside(job, objective.roles(), plan["channels"] is not None)
            unpruned = job.adapter.transformer if apart else None
            with job.parked(unpruned is None):  # before the other one and the texts' encoder need the device
                latents = LatentClips(inputs["data"], job.adapter, r.negative_prompt)
                source, real = load_transformer(job, recovered), (job.algorithm("teacher"), pruned)
                facts = train_stage(job, "distill", objective, source, latents, r.distill, folder, real, unpruned)
            if unpruned is not None and r.engine == "deepspeed" and job.zero == 3:
                job.forget_model()
        elif job.ranks.leader:
            small: Any = removed(load_transformer(job, recovered), pruned.kept, job.adapter.stacks)
            small.save_pretrained(folder / "transformer")
        if job.ranks.leader:
            self.declare(job, schedule, recovered, folder)
        return facts

    def declare(self, job: Job, schedule: FewStepSchedule, recovered: Path, folder: Path) -> None:
        r, trains = job.recipe, job.algorithm("distiller").trains
        declared = schedule.declaration() | {"distiller": r.distiller.name, "teacher": r.teacher.name}
        declared |= {} if trains else {"teacher": "none"}
        declared |= {"guidance": student_guidance(job), "recovery": recovery_of(recovered)}
        (folder / STUDENT).write_text(json.dumps(declared, indent=1))


DISTILL = Distill()
