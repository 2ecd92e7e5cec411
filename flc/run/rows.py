"""The rows of a run's table, each before its network is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flc.api import View
from flc.evaluate.sampling import Row
from flc.models.notes import STUDENT, read_student
from flc.models.view import blocks_of
from flc.recipe import RowName
from flc.run.job import Job
from flc.run.plan import read_plan
from flc.run.weights import load_transformer
from flc.train.nets import RoleNet


@dataclass(frozen=True)
class Entry:
    """A row before its network is loaded: full-size ones do not fit side by side."""

    name: RowName | Literal["pipeline"]
    title: str
    steps: int
    guidance: float
    scheduler: Any
    load: Callable[[], RoleNet]
    needs: tuple[str, ...] = ()
    """Folders of earlier stages that its clips depend on."""

    @property
    def own(self) -> bool:
        """Whether it is a network of its own, beside which the model's has nothing to do."""
        return self.name in ("pruned", "recovered", "student")

    def row(self) -> Row:
        net = self.load()
        count = sum(p.numel() for p in net.module.parameters())
        for stack, kept in (net.default.kept or {}).items():
            gone = [block for i, block in enumerate(blocks_of(net.module, stack)) if i not in kept]
            count -= sum(p.numel() for block in gone for p in block.parameters())
        return Row(self.name, self.title, net, self.scheduler, self.steps, self.guidance, count)


def entries(job: Job, inputs: Mapping[str, Path]) -> list[Entry]:
    """The table: the teacher at many and at few steps, after each stage, and the student."""
    r, adapter = job.recipe, job.adapter
    declared, kept = read_student(inputs["student"] / STUDENT), read_plan(job, inputs["plan"])["kept"]
    many, few, guidance = r.evaluate.teacher_steps, declared["steps"], job.guidance
    own = adapter.schedule(few, declared["shift"], declared["sampler"]).scheduler

    def of(folder: Path | None, view: View = View()) -> Callable[[], RoleNet]:
        def load() -> RoleNet:
            module = adapter.transformer if folder is None else load_transformer(job, folder)
            return RoleNet(adapter, module, module, view)

        return load

    def plain() -> Any:
        return adapter.teacher_scheduler()

    def entry(name: RowName, what: str, steps: int, scale: float, *rest: Any) -> Entry:
        return Entry(name, f"{what}, {steps} steps" + (", guided" if scale != 1 else ""), steps, scale, *rest)

    teacher, healed = (plain(), of(None)), of(inputs["recovered"], View(kept))
    table = [
        entry("teacher-many", "teacher", many, guidance, *teacher),
        entry("teacher-few-guided", "teacher", few, guidance, *teacher),
        entry("teacher-few", "teacher", few, 1.0, *teacher),
        entry("pruned", "pruned only", many, guidance, plain(), of(inputs["pruned"]), ("pruned",)),
        entry("recovered", "recovered", many, guidance, plain(), healed, ("plan", "recovered")),
        entry("student", "student", few, declared["guidance"], own, of(inputs["student"]), ("student",)),
    ]
    return [row for row in table if row.name in job.rows]


def alone(job: Job) -> Entry:
    """The one row of a finished folder: the job's own model with its scheduler, at the steps its flc.json names."""
    adapter, steps = job.adapter, job.adapter.notes.get("steps", job.recipe.evaluate.teacher_steps)
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    title = f"{job.model_folder.resolve().name}, {steps} steps"
    return Entry("pipeline", title, steps, job.guidance, adapter.teacher_scheduler(), lambda: net)
