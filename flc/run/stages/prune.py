"""The blocks outside the plan removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flc.models.folder import numbers
from flc.models.view import removed
from flc.run.console import in_words
from flc.run.job import Job
from flc.run.plan import original, read_plan
from flc.run.stage import Stage


class Prune(Stage):
    """A stock `transformer/` folder of the model's own weights."""

    name = "prune"
    reads = {"plan": "score"}
    given = {"plan": "plan"}
    needs = frozenset({"transformer"})

    def made_with(self, job: Job) -> dict[str, Any]:
        return {"dtype": job.recipe.dtype}

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> None:
        if job.ranks.leader:
            plan = read_plan(job, inputs["plan"])
            small = removed(original(job, plan)[0], plan["kept"], job.adapter.stacks)
            small.save_pretrained(folder / "transformer")  # type: ignore[operator]

    def say(self, job: Job) -> None:
        made = self.place(job) / "transformer"
        small, whole = numbers(made), numbers(job.model_folder / "transformer")
        job.console.say(f"{made}: {in_words(small)} of {in_words(whole)} parameters")


PRUNE = Prune()
