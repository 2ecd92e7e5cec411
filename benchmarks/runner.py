"""Cells run: what is missing of them, each by a `flc compress` of its own, some at a time, resumable.

Folders of runs are a cache outside of the tree (`cache`): clips, weights, logs. Stages that cells have in common lie
there once (`flc compress --store`). What tables read of a run goes to `results/` as soon as it is there (`records.py`),
and a cell that stands there is not run again, on any machine; what shows or runs clips and weights asks for `whole`
ones. Nothing is committed to git here.

A cell that fails says why in the table's row; so does one that cannot be made here, an extra missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from benchmarks.cells import Cell, Scale, digest, identity, name_of
from benchmarks.common import ROOT, commit, spread
from benchmarks.records import Record, Records
from flc.errors import UserError
from flc.evaluate.intervals import clip_averages
from flc.evaluate.vbench import lacks
from flc.files import write_text
from flc.models.folder import NOTES, read_json
from flc.recipe import Recipe, lock_text
from flc.run.compress import LOCK
from flc.run.fingerprints import DONE, fingerprint_of

COMMIT, LOG, STAGES = "commit.txt", "log.txt", "stages"
TRAININGS = ("score", "recover", "distill")
#: What comes after all that cells may have in common.
LATER = ("distiller", "teacher", "distill", "guidance", "evaluate")


def cache() -> Path:
    """Where runs lie when nothing else is said: `FLC_CACHE`, or the user's own folder for such things."""
    if named := os.environ.get("FLC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flc" / "benchmarks"


def complaint(log: Path) -> str:
    """What flc said last in a log of a run that failed; a launcher has its own words after it."""
    lines = log.read_text().strip().splitlines() if log.exists() else []
    errors = [line for line in lines if "flc: error:" in line]
    return (errors or lines or ["not run"])[-1].strip()


def row_of(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The counting row of a finished run in a folder."""
    if not (folder / "metrics.json").exists():
        return None
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return next((row for row in rows if row["name"] == cell.row), None)


def whole_row(folder: Path, cell: Cell) -> bool:
    """Whether a run has nothing left to do: a suite that measured some dimensions alone is asked for the others."""
    row = row_of(folder, cell)
    return row is not None and not lacks(row)


def facts_of(folder: Path, cell: Cell, recipe: Recipe) -> tuple[dict[str, Any], list[float]]:
    """What a finished run's folder says of `Record`'s fields, and the average of each of its clips."""
    row, metrics = row_of(folder, cell), read_json(folder / "metrics.json")
    assert row is not None
    plan, student = read_json(folder / "score" / "plan.json"), read_json(folder / "pipeline" / NOTES)
    done = {stage: read_json(folder / stage / DONE) for stage in TRAININGS}
    trained = {stage: facts for stage, facts in done.items() if "seconds" in facts}
    evaluations = {stage: facts["block_evaluations"] for stage, facts in trained.items()}
    scored = plan["block_evaluations"] * plan["batch"] / recipe.distill.batch  # of a batch of the trainings
    evaluations["score"] = evaluations.get("score", 0.0) + scored
    baseline = plan["details"].get("baseline")
    facts = {
        "machine": f"{metrics['hardware']['cpu']}, torch {metrics['versions']['torch']}",
        "averaged": [metric["name"] for metric in metrics["metrics"] if metric["in_average"]],
        "clips": metrics["clips"],
        "text_only": row.get("text_only", {}).get("average"),
        **{name: row[name] for name in ("average", "scores", "steps", "guidance", "parameters")},
        "seconds": {stage: facts["seconds"] for stage, facts in trained.items()},
        "block_evaluations": evaluations,
        **{name: student[name] for name in ("kept", "ffn", "shift", "sampler", "size")},
        "block_scores": plan["scores"],
        "baseline": baseline if isinstance(baseline, float) else None,
        "removal": plan["removal"],
    }
    return facts, clip_averages(row).tolist() if row.get("per_clip") else []


class Runs:
    """The runs of one scale, in a folder of the cache; at most `jobs` at a time, one core each."""

    def __init__(self, folder: Path | None, scale: Scale, jobs: int, records: Records | None = None) -> None:
        self.cache = folder or cache()
        self.folder, self.scale, self.jobs = self.cache / scale.name, scale, jobs
        self.records, self._failed, self._lock = records or Records(), dict[str, str](), Lock()

    def path(self, cell: Cell, seed: int) -> Path:
        """The folder that a cell runs in; of one that cannot be made here, where it says so."""
        try:
            return self.folder / f"cell-{name_of(cell.at(self.scale, seed))}"
        except UserError:
            return self.folder / f"refused-{digest([cell.values, cell.all_in, seed])}"

    def record(self, cell: Cell, seed: int) -> Record | None:
        """What is kept of a finished run."""
        try:
            return self.records.find(self.scale, cell.at(self.scale, seed))
        except UserError:
            return None

    def missing(self, cells: list[Cell], seeds: list[int], whole: bool = False) -> list[tuple[Cell, int]]:
        """Runs still to do, each folder once; `whole`: with its clips and weights."""
        wanted = {self.path(c, s): (c, s) for c in cells for s in seeds}
        return [
            pair
            for path, pair in wanted.items()
            if self.record(*pair) is None or (whole and not whole_row(path, pair[0]))
        ]

    def run(self, cells: list[Cell], seeds: list[int], whole: bool = False) -> None:
        """First one cell of each group that has the earlier stages in common, then the others, which take those from
        the store: two at a time would wait for each other."""
        missing = [pair for pair in self.missing(cells, seeds, whole) if self.path(*pair).name not in self._failed]
        if missing:
            self.scale.check_hosts()
        pending = [pair for pair in missing if self._can(*pair)]
        first: dict[str, tuple[Cell, int]] = {}
        for cell, seed in pending:
            first.setdefault(self._shared(cell, seed), (cell, seed))
        for some in ([*first.values()], [pair for pair in pending if pair not in first.values()]):
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(lambda pair: self._cell(*pair), some))

    def _shared(self, cell: Cell, seed: int) -> str:
        """Names what a cell has in common with others: all up to stage II."""
        return digest({k: v for k, v in identity(cell.at(self.scale, seed)).items() if k not in LATER})

    def _can(self, cell: Cell, seed: int) -> bool:
        """Whether a cell's recipe can be made here; its log says why not."""
        try:
            cell.at(self.scale, seed)
        except UserError as error:
            out = self.path(cell, seed)
            out.mkdir(parents=True, exist_ok=True)
            (out / LOG).write_text(f"flc: error: {error}\n")
            return False
        return True

    def _cell(self, cell: Cell, seed: int) -> None:
        recipe, out, shared = cell.at(self.scale, seed), self.path(cell, seed), self._shared(cell, seed)
        begin(out, recipe)
        if shared in self._failed:  # it would fail here again, after as long
            (out / LOG).write_text(self._failed[shared] + "\n")
            return
        if self._call(["compress", "--resume", "--out", str(out), "--store", str(self.cache / STAGES)], out):
            self._failed[out.name] = complaint(out / LOG)
            if not (out / "recover" / DONE).exists():
                self._failed[shared] = complaint(out / LOG)
        elif whole_row(out, cell):
            self._keep(cell, recipe, out)

    def _keep(self, cell: Cell, recipe: Recipe, out: Path) -> None:
        facts, clips = facts_of(out, cell, recipe)
        self.records.put(cell, self.scale, recipe, {"commits": self._commits(out), **facts}, clips)

    def _commits(self, out: Path) -> list[str]:
        """Under which commits a run and its stages were made: of a stage, those of the run that made it."""
        own, place = (out / COMMIT).read_text().split(), self.cache / "commits.json"
        with self._lock:
            known = read_json(place) if place.exists() else {}
            for stage in (fingerprint_of(out / name) for name in TRAININGS):
                own = [*own, *known.setdefault(stage, list(own))]
            write_text(place, json.dumps(known))
        return sorted(set(own))

    def _call(self, arguments: list[str], out: Path) -> int:
        """`flc` in processes of its own, on one core; what it says is in the log."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(out / LOG, "w") as log:
            command = [*self.scale.command(), *arguments]
            return subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT).returncode

    def dry(self, cells: list[Cell], seed: int) -> dict[str, str]:
        """What `flc compress --dry-run` says of each cell, in one process; a failed one says why. Of a scale that is
        run in several ranks all is counted, from the model's configs."""
        found, ranks = {}, self.scale.read().get("ranks")
        more = ["--ranks", str(ranks)] if ranks else []
        for cell in cells:
            try:
                recipe = cell.at(self.scale, seed)
            except UserError as error:
                found[cell.label] = f"failed: {error}"
                continue
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "recipe.yaml").write_text(lock_text(recipe))
                command = [sys.executable, "-m", "flc", "compress", "--recipe", f"{folder}/recipe.yaml"]
                done = subprocess.run(
                    [*command, "--out", f"{folder}/out", "--dry-run", *more], capture_output=True, text=True, cwd=ROOT
                )
            lines = done.stderr.strip().splitlines()
            found[cell.label] = done.stdout if done.returncode == 0 else f"failed: {lines[-1] if lines else 'killed'}"
        return found

    def commits(self, cells: list[Cell], seeds: list[int]) -> list[str]:
        """Under which commits these cells, and the stages they share, were run."""
        found = [self.record(c, s) for c in cells for s in seeds]
        return sorted({commit for record in found if record for commit in record.commits})

    def row(self, cell: Cell, seed: int, whole: bool = False) -> dict[str, Any]:
        """What is kept of a finished cell, or {"error": ...} of a failed one. `whole`: of the run itself, whose clips
        are to be shown; what is kept of another run of it is no success of this one."""
        out = self.path(cell, seed)
        if whole:
            row = row_of(out, cell)
            why = "not run" if row is None else lacks(row)
            return row if row is not None and not why else {"error": complaint(out / LOG) if row is None else why}
        if record := self.record(cell, seed):
            return record.model_dump()
        row = row_of(out, cell)
        return {"error": (row and lacks(row)) or complaint(out / LOG)}

    def clips(self, cell: Cell, seed: int) -> np.ndarray | None:
        """(n,) the average of each clip of a finished run; None where it was not kept."""
        record = self.record(cell, seed)
        return self.records.clips(record) if record else None


def begin(out: Path, recipe: Recipe) -> None:
    """A run's folder, with its recipe and the commit that it runs under."""
    out.mkdir(parents=True, exist_ok=True)
    (out / LOCK).write_text(lock_text(recipe))
    with open(out / COMMIT, "a") as commits:  # a run that goes on may do so under another one
        commits.write(commit() + "\n")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds of a cell's rows; with an error when one failed."""
    good = [r for r in rows if "error" not in r]
    errors = [r["error"] for r in rows if "error" in r]
    if not good:
        return {"error": errors[0]}
    names = [n for n in good[0]["scores"] if all(r["scores"].get(n) is not None for r in good)]
    out: dict[str, Any] = {k: good[0][k] for k in ("steps", "guidance", "parameters")}
    out["average"] = spread([r["average"] for r in good])
    out["scores"] = {n: spread([r["scores"][n] for r in good]) for n in names}
    return out | ({"error": errors[0]} if errors else {})
