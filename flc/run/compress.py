"""`flc compress` and the stage commands: from flags to finished folders."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from flc.cli.flags import check_out, recipe_from
from flc.errors import Interrupted
from flc.models.folder import check, read_json
from flc.recipe import Recipe, lock_text
from flc.run import finish, stages
from flc.run.console import Console
from flc.run.folders import require
from flc.run.job import Job
from flc.train.launch import from_environment
from flc.train.loop import STOP

LOCK = "recipe.lock.yaml"


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM: a training loop saves first; anything else stops at once (stages are atomic)."""

    def handle(number: int, frame: Any) -> None:
        if STOP.looping and STOP.signal is None:
            STOP.signal = number
        else:
            raise Interrupted(number)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        STOP.signal = None
        for number, handler in before.items():
            signal.signal(number, handler)


def make_job(values: dict[str, Any]) -> Job:
    recipe: Recipe = recipe_from(values)
    ranks = from_environment(recipe.engine, recipe.device)
    job = Job(recipe, values["out"], Console(quiet=not ranks.leader), ranks)
    check(job.model_folder)
    job.check()
    return job


def begin(job: Job, resume: bool) -> None:
    """Refuse an --out in use, then write the lock file."""
    if job.ranks.leader:
        check_out(job.out, resume)
        job.out.mkdir(parents=True, exist_ok=True)
        (job.out / LOCK).write_text(lock_text(job.recipe))
    job.ranks.barrier()


def compress(values: dict[str, Any]) -> None:
    if not values["dry_run"]:
        check_out(values["out"], values["resume"])
    job = make_job(values)
    if values["dry_run"]:
        from flc.run.estimate import dry_run

        with tempfile.TemporaryDirectory() as scratch:
            dry_run(job, Path(scratch))
        return
    with signals():
        begin(job, values["resume"])
        data = stages.prepare(job)
        scored = stages.score(job, data)
        pruned = stages.prune(job, scored)
        recovered = stages.recover(job, data, scored)
        distilled = stages.distill(job, data, scored, recovered)
        finish.export(job, scored, distilled)
        finish.evaluate(job, scored, pruned, recovered, distilled)
        if job.ranks.leader:
            finish.report(job)
            print_table(job)
            job.console.say(f"student: {job.out / 'pipeline'}   report: {job.out / 'report.html'}")


def stage(name: str, values: dict[str, Any]) -> None:
    """One stage in OUT; what it needs comes from OUT too, or from --plan and --weights."""
    job = make_job(values)
    with signals():
        out = job.out
        out.mkdir(parents=True, exist_ok=True)
        plan = values.get("plan") or out / "score"
        weights = values.get("weights")
        if name == "score":
            begin(job, values["resume"])
            stages.score(job, stages.prepare(job))
        elif name == "prune":
            stages.prune(job, require(plan, "the plan", "flc score, or --plan"))
        elif name == "recover":
            stages.recover(job, stages.prepare(job), require(plan, "the plan", "flc score, or --plan"))
        elif name == "distill":
            source = require(weights or out / "recover", "the recovered network", "flc recover, or --weights")
            stages.distill(job, stages.prepare(job), require(plan, "the plan", "flc score, or --plan"), source)
        elif name == "export":
            student = require(weights or out / "distill", "the student", "flc distill, or --weights")
            finish.export(job, require(plan, "the plan", "flc score, or --plan"), student)
        elif name == "evaluate":
            folders = [require(out / n, f"{n}/", f"flc {n}") for n in ("score", "prune", "recover", "distill")]
            finish.evaluate(job, *folders)
            if job.ranks.leader:
                print_table(job)
        else:
            require(out / "pipeline", "the pipeline", "flc export")
            require(out / "metrics.json", "the measurements", "flc evaluate")
            job.console.say(str(finish.report(job)))


def print_table(job: Job) -> None:
    metrics = read_json(job.out / "metrics.json")
    table = Table(title=f"{metrics['clips']} clips, seed {metrics['seed']}; all scores in [0, 1], higher is better")
    columns = ["", "steps", "M parameters", "s/clip", "average", "caption_accuracy", "distribution", "diversity"]
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for row in finish.table_rows(metrics):
        table.add_row(*[row.get(c, "") for c in columns])
    from rich import print as show

    show(table)
