"""The table: clips of every row, scored by a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flc.errors import Incomplete, UserError
from flc.evaluate.vbench import lacks
from flc.files import write_text
from flc.models.folder import read_json
from flc.run import vbench
from flc.run.fingerprints import ClipsOf
from flc.run.job import Job
from flc.run.plan import read_plan
from flc.run.rows import Entry, alone, entries
from flc.run.shapes import draws, measure_shapes
from flc.run.stage import Stage
from flc.run.stages.export import check_student
from flc.run.table import print_table
from flc.run.weights import check_shape


class Evaluate(Stage):
    """The rows of a run: videos of every row, and `metrics.json`, beside the stages, too."""

    name = "evaluate"
    reads = {"plan": "score", "pruned": "prune", "recovered": "recover", "student": "distill"}
    compared = shared = False

    def inputs(self, job: Job) -> dict[str, Path | ClipsOf]:
        data = job.recipe.data
        return super().inputs(job) | ({"data": ClipsOf(Path(data), job.rows_of_table)} if data else {})

    def check_inputs(self, job: Job, inputs: Mapping[str, Path]) -> None:
        plan = read_plan(job, inputs["plan"])
        for name, pruned in (("pruned", True), ("recovered", False), ("student", True)):
            check_shape(job, plan, inputs[name], pruned)
        check_student(job, inputs["student"])

    def run(self, job: Job, inputs: Mapping[str, Path]) -> Path:
        """The suite decides what its stages in OUT are; without `inputs` the job's model is the one row."""

        def table() -> list[Entry]:
            return entries(job, inputs) if inputs else [alone(job)]

        return self.measure(job, table, inputs)

    def measure(self, job: Job, table_of: Callable[[], list[Entry]], inputs: Mapping[str, Path]) -> Path:
        """VBench's suites fall back on the shapes suite where VBench measures nothing and the model makes drawn
        clips."""
        out, suite = self.place(job), job.recipe.evaluate.suite
        made = {**inputs, "model": job.model_folder}
        reason = "" if suite == "shapes" else vbench.measure(job, table_of(), made)
        if job.ranks.leader:
            if reason and not draws(job):
                raise UserError(reason)
            if reason:
                job.console.warn(f"{reason}. Measured with the shapes suite instead")
            if reason or suite == "shapes":
                measure_shapes(job, table_of, {**inputs, **self.inputs(job)})
            write_text(job.out / "metrics.json", (out / "metrics.json").read_text())
        job.ranks.barrier()
        return out

    def say(self, job: Job) -> None:
        if job.ranks.leader:
            print_table(job)
            check_complete(job)


def check_complete(job: Job) -> None:
    """`Incomplete` where a row has no average because the suite could not measure all of it."""
    for row in read_json(job.out / "metrics.json")["rows"]:
        if why := lacks(row):
            raise Incomplete(f"{row['name']} has no average: {why}")


EVALUATE = Evaluate()
