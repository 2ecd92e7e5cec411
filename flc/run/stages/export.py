"""The student as a stock diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flc.export.pipeline import check_schedule, write_pipeline
from flc.models.folder import EMBEDDED_NAME, NOTES, read_json
from flc.models.notes import STUDENT, read_student
from flc.recipe import Recipe, placed
from flc.run.console import in_words
from flc.run.job import Job
from flc.run.plan import read_plan
from flc.run.stage import Stage
from flc.run.weights import check_shape, read_transformer
from flc.schedule import FewStepSchedule


def public(recipe: Recipe) -> Recipe:
    """As a model card may show it: files and folders by name, not by where they lie on this machine."""
    return placed(recipe, lambda place: public_name(Path(place).resolve()))


def public_name(place: Path) -> str:
    """Its own, or the repository's whose snapshot it is in the hub's cache: that one's own is a commit's."""
    if place.parent.name == "snapshots":
        kind, *repository = place.parent.parent.name.split("--")
        if repository and kind in ("models", "datasets"):
            return "/".join(repository)
    return place.name


def schedule_of(job: Job, declared: dict[str, Any]) -> FewStepSchedule:
    return job.adapter.schedule(declared["steps"], declared["shift"], declared["sampler"])


def check_student(job: Job, distilled: Path) -> None:
    """That this version samples it as it was trained."""
    declared = read_student(distilled / STUDENT)
    check_schedule(declared, schedule_of(job, declared))


class Export(Stage):
    """OUT/pipeline, whose name says what it is to those who load it."""

    name, folder = "export", "pipeline"
    reads = {"plan": "score", "student": "distill"}
    given = {"plan": "plan", "student": "weights"}
    compared = shared = False
    needs = frozenset()

    def made_with(self, job: Job) -> dict[str, Any]:
        return {"size": job.size, "dtype": job.recipe.dtype, "name": public(job.recipe).model}

    def check_inputs(self, job: Job, inputs: Mapping[str, Path]) -> None:
        check_shape(job, read_plan(job, inputs["plan"]), inputs["student"], True)
        check_student(job, inputs["student"])

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> None:
        if not job.ranks.leader:
            return
        declared, plan = read_student(inputs["student"] / STUDENT), read_plan(job, inputs["plan"])
        student = read_transformer(job, inputs["student"])
        ffn = plan["channels"] and {stack: len(blocks[0]) for stack, blocks in plan["channels"].items()}
        facts = {"kept": plan["kept"], "pruner": plan["pruner"],
                 "share": job.budget.share(plan["kept"], plan["channels"]),
                 "ffn": ffn, "parameters": sum(p.numel() for p in student.parameters()), "size": job.size,
                 "fps": job.adapter.fps_of(job.model_folder), "dtype": job.recipe.dtype,
                 "base_model": public(job.recipe).model or EMBEDDED_NAME,
                 **job.adapter.declaration(),
                 "license": "apache-2.0" if job.recipe.model is None else "other"}  # fmt: skip
        schedule, described = schedule_of(job, declared), declared | facts
        write_pipeline(job.adapter, job.model_folder, student, schedule, described, folder)

    def say(self, job: Job) -> None:
        made = self.place(job)
        kind, notes = read_json(made / "model_index.json")["_class_name"], read_json(made / NOTES)
        job.console.say(f"{made}: {kind}, {in_words(notes['parameters'])} parameters, {notes['steps']} steps")


EXPORT = Export()
