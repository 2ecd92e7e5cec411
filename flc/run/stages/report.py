"""The page of a run, and its pipeline's model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flc.errors import UserError
from flc.export.card import model_card
from flc.files import write_text
from flc.models.folder import NOTES, adapter_for, read_json
from flc.recipe import lock_text
from flc.run.job import Job
from flc.run.stage import Stage
from flc.run.stages.export import EXPORT, public
from flc.run.table import table_columns, table_rows


class Report(Stage):
    """`report.html`, and the model card of `pipeline/`."""

    name = "report"
    reads = {"pipeline": "export", "measured": "evaluate"}
    rests_on = ("recover", "distill")
    compared = shared = False
    needs = frozenset()

    def needed(self, job: Job, places: Mapping[str, Path]) -> list[tuple[Path, str, str]]:
        return [(places["pipeline"], "the pipeline", "flc export"),
                (job.out / "metrics.json", "the measurements", "flc evaluate")]  # fmt: skip

    def run(self, job: Job, inputs: Mapping[str, Path]) -> Path:
        if job.ranks.leader:
            write_card(job)
            from flc.report.page import write_report

            write_report(job.out)
        job.ranks.barrier()
        return job.out / "report.html"

    def say(self, job: Job) -> None:
        job.console.say(str(job.out / "report.html"))


def write_card(job: Job) -> None:
    pipeline = EXPORT.place(job)
    measured, notes = job.out / "metrics.json", pipeline / NOTES
    metrics, declared = read_json(measured), read_json(notes)
    declared["pipeline"] = read_json(pipeline / "model_index.json").get("_class_name", "DiffusionPipeline")
    adapter = adapter_for(pipeline, weights=False)
    declared |= {"guidance_argument": adapter.guidance_argument, "setup": list(adapter.setup)}
    declared |= {"needs_first_frame": adapter.needs_first_frame, "exact": list(adapter.exact)}
    try:
        declared["suite"] = metrics["suite"]
        declared["example"] = metrics["prompts"][0]["caption"]
        declared["call"] = adapter.call_settings(pipeline, declared["guidance"], job.recipe.negative_prompt)
        card = model_card(declared, table_rows(metrics), table_columns(metrics), lock_text(public(job.recipe)))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:  # a file that was edited
        text = f"{measured} or {notes} is not as `flc evaluate` and `flc export` write it ({error!r}): run them again"
        raise UserError(text) from error
    write_text(pipeline / "README.md", card)


REPORT = Report()
