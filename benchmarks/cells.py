"""Cells of a comparison: runs of `flc compress` that differ in a few choices, cached, resumable, sharing stages.

A cell is a recipe. Its folder is named after the recipe's hash, so a cell that was run is not run again, whichever
table asks for it, and a changed option is another cell. Where weights, clips and VBench lie is no part of it, only what
their folders are called: another machine has them elsewhere. Cells that agree on data, pruner and recovery take those
stages from one another: `stems` are run first, one for each distinct recipe up to stage II. Stems that agree on data
alone take that.

What tables read of a finished cell, some kilobytes, is kept in `results/cells/` as soon as it is there: with it
committed, a cell needs no second run on another machine. Clips and weights stay in the run's folder; what shows or
runs those asks for `whole` cells.

A cell that fails says why in the table's row; so does one that cannot be made here, an extra missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, Literal

import yaml

from benchmarks.common import RESULTS, ROOT, commit, spread
from flc.errors import UserError
from flc.evaluate.manifest import digest as digest_of
from flc.evaluate.manifest import read_manifest
from flc.evaluate.vbench import lacks
from flc.recipe import ALGORITHMS, EVALUATE_PLACES, PLACES, Choice, Recipe, lock_text, merge, resolve
from flc.registry import registry
from flc.run.compress import LOCK, completed

SCALES = Path(__file__).parent / "scales"
NOT_OF_RECIPE = ("algorithms", "launch", "ranks", "timing", "jobs")
COMMIT, LOG = "commit.txt", "log.txt"
#: Files of a run that are kept.
KEPT = ("metrics.json", "score/plan.json", "recover/done.json", "distill/done.json", "pipeline/flc.json", COMMIT)
#: Recipe fields that decide each shared stage, from the first to the last; later stages need the earlier ones' too.
STEMS = {
    "data": ("model", "data", "seed", "height", "width", "frames", "dtype", "device", "prepare"),
    "score": ("pruner", "keep", "score", "negative_prompt"),
    "prune": (),
    "recover": ("recovery", "recover", "engine", "zero"),
}


@dataclass(frozen=True)
class Scale:
    """`scales/NAME.yaml`: a recipe, options of algorithms by kind and name, how `flc` is started and in how many
    `ranks`, how often times are taken (`timing`) and how many runs go on at a time (`jobs`); `over` is laid over the
    recipe: where this machine has the weights and clips."""

    name: str
    over: dict[str, Any] = field(default_factory=dict)
    launch: str = ""

    def read(self) -> dict[str, Any]:
        return yaml.safe_load((SCALES / f"{self.name}.yaml").read_text())

    def base(self) -> dict[str, Any]:
        return merge({key: value for key, value in self.read().items() if key not in NOT_OF_RECIPE}, self.over)

    def options(self, kind: str, name: str) -> dict[str, Any]:
        return self.read().get("algorithms", {}).get(kind, {}).get(name, {})

    def command(self) -> list[str]:
        return shlex.split(self.launch or self.read().get("launch", "")) or [sys.executable, "-m", "flc"]

    def check_hosts(self) -> None:
        """deepspeed takes the one machine it runs on where its hostfile is missing, and says so in a warning."""
        command = self.command()
        if "--hostfile" in command:
            hosts = ROOT / command[command.index("--hostfile") + 1]
            if not hosts.exists():
                sys.exit(f"{hosts} is missing: write it (one `HOST slots=GPUS` a line), or give another --launch")


@dataclass(frozen=True)
class Cell:
    """One method at one setting. `values` is laid over the scale's recipe; `row` is what counts of its metrics.
    A method that trains in one stage only, `all_in`, has both stages' iterations there: the same training budget.
    `seeded`: the algorithm whose own seed is the run's."""

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    row: str = "student"
    all_in: Literal["recover", "distill"] | None = None
    seeded: Literal["pruner"] | None = None

    def at(self, scale: Scale, seed: int) -> Recipe:
        recipe = self.resolved(scale, seed)
        return completed(recipe.model_copy(update={kind: self.chosen(recipe, kind, scale) for kind in ALGORITHMS}))

    def resolved(self, scale: Scale, seed: int) -> Recipe:
        """Without the scale's options of algorithms."""
        values = merge(merge(scale.base(), self.values), {"seed": seed})
        recipe = resolve(values, {}, {})
        if self.all_in is None:
            return recipe
        both = recipe.recover.iterations + recipe.distill.iterations
        return resolve(merge(values, {self.all_in: {"iterations": both}}), {}, {})

    def chosen(self, recipe: Recipe, kind: str, scale: Scale) -> Choice:
        """The algorithm of this kind: preset < scale < what the cell says itself."""
        choice: Choice = getattr(recipe, kind)
        given = self.values.get(kind)
        own = {k: v for k, v in given.items() if k != "name"} if isinstance(given, dict) else {}
        own |= {"seed": recipe.seed} if kind == self.seeded else {}
        return Choice(name=choice.name, **choice.options | scale.options(kind, choice.name) | own)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


#: What says where an optimizer lies and in how many parts a batch is taken, and not what comes out.
MEANS = {"offload": True, "recover": {"accumulate"}, "distill": {"accumulate"}}


def means(recipe: Recipe) -> dict[str, Any]:
    """`MEANS` of a recipe: where a loss compares clips, the parts count that they are compared in."""
    out: dict[str, Any] = dict(MEANS)
    for name, kind in (("recover", "recovery"), ("distill", "distiller")):
        compares = registry().load(kind, getattr(recipe, kind).name).compares  # type: ignore[attr-defined]
        if compares > 1 and getattr(recipe, name).accumulate > 1:
            out.pop(name)
    return out


@cache
def prompts_of(manifest: str, changed: int) -> str:
    """A fingerprint of what a manifest asks for, images and all; of one that cannot be read its name."""
    try:
        return digest_of(read_manifest(Path(manifest)))
    except UserError:
        return Path(manifest).name


def identity(recipe: Recipe) -> dict[str, Any]:
    """What makes a run the run it is: its recipe, with files and folders by their last name but a manifest by what it
    asks for, without an interpreter and without `MEANS`."""

    def named(values: dict[str, Any], places: Sequence[str]) -> dict[str, Any]:
        return {k: Path(v).name if k in places and v else v for k, v in values.items()}

    values = recipe.model_dump(mode="json", exclude=means(recipe))
    evaluate = named(values["evaluate"], EVALUATE_PLACES) | {"vbench_python": None, "vbench_data": None}
    if (manifest := recipe.evaluate.manifest) and Path(manifest).is_file():
        evaluate["manifest"] = prompts_of(manifest, Path(manifest).stat().st_mtime_ns)
    return named(values, PLACES) | {"evaluate": evaluate}


def name_of(recipe: Recipe) -> str:
    return digest(identity(recipe))


def stem_of(recipe: Recipe) -> str:
    """Name of the shared part of a recipe: everything up to stage II."""
    values = identity(recipe)
    return digest({name: values[name] for names in STEMS.values() for name in names})


def data_of(recipe: Recipe) -> str:
    """Name of the encoded clips of a recipe."""
    values = identity(recipe)
    return digest({name: values[name] for name in STEMS["data"]})


def complaint(log: Path) -> str:
    """What flc said last in a log of a run that failed; a launcher has its own words after it."""
    lines = log.read_text().strip().splitlines() if log.exists() else []
    errors = [line for line in lines if "flc: error:" in line]
    return (errors or lines or ["not run"])[-1].strip()


def take(stage: Path, place: Path) -> None:
    """A finished stage of another run, as hard links; it is there whole or not at all."""
    if place.exists() or not (stage / "done.json").exists():
        return
    half = place.with_name(f".copy-{place.name}-{get_ident()}")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(stage, half, copy_function=os.link)
    try:
        half.rename(place)
    except OSError:  # another run's came first
        shutil.rmtree(half)


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


class Runs:
    """The runs of one scale in a folder; at most `jobs` at a time, one core each. `committing`: what is kept of a
    cell is committed to git as it ends."""

    def __init__(
        self, folder: Path, scale: Scale, jobs: int, kept: Path | None = None, committing: bool = False
    ) -> None:
        self.folder, self.scale, self.jobs = folder / scale.name, scale, jobs
        self.committing, self._git = committing, Lock()
        self._failed: dict[str, str] = {}
        self.kept = (kept or RESULTS / "cells") / scale.name

    def path(self, cell: Cell, seed: int) -> Path:
        """The folder that a cell runs in; of one that cannot be made here, where it says so."""
        try:
            return self.folder / f"cell-{name_of(cell.at(self.scale, seed))}"
        except UserError:
            return self.folder / f"refused-{digest([cell.values, cell.all_in, seed])}"

    def found(self, cell: Cell, seed: int) -> Path:
        """Where a finished cell's `KEPT` files are: its run's folder, or what is kept of one."""
        path = self.path(cell, seed)
        kept = self.kept / path.name
        return kept if not whole_row(path, cell) and whole_row(kept, cell) else path

    def missing(self, cells: list[Cell], seeds: list[int], whole: bool = False) -> list[tuple[Cell, int]]:
        """Runs still to do, each folder once; `whole`: with its clips and weights."""
        wanted = {self.path(c, s): (c, s) for c in cells for s in seeds}
        there = self.path if whole else self.found
        return [pair for pair in wanted.values() if not whole_row(there(*pair), pair[0])]

    def run(self, cells: list[Cell], seeds: list[int], whole: bool = False) -> None:
        missing = [pair for pair in self.missing(cells, seeds, whole) if self.path(*pair).name not in self._failed]
        if missing:
            self.scale.check_hosts()
        pending = [pair for pair in missing if self._can(*pair)]
        recipes = [cell.at(self.scale, seed) for cell, seed in pending]
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._stem, {stem_of(recipe): recipe for recipe in recipes}.values()))
            list(pool.map(lambda pair: self._cell(*pair), pending))
        if self.committing:
            for cell, seed in ((c, s) for c in cells for s in seeds):
                self._commit(cell, seed)

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

    def _stem(self, recipe: Recipe) -> None:
        out, data = self.folder / f"stem-{stem_of(recipe)}", self.folder / f"data-{data_of(recipe)}"
        if out.name in self._failed:
            return
        if not (out / "recover" / "done.json").exists():
            begin(out, recipe)
            take(data, out / "data")
            if self._call(["compress", "--until", "recover", "--resume", "--out", str(out)], out):
                self._failed[out.name] = complaint(out / LOG)
            take(out / "data", data)

    def _cell(self, cell: Cell, seed: int) -> None:
        recipe, out = cell.at(self.scale, seed), self.path(cell, seed)
        begin(out, recipe)
        stem = self.folder / f"stem-{stem_of(recipe)}"
        if stem.name in self._failed:  # it would fail here again, after as long
            (out / LOG).write_text(self._failed[stem.name] + "\n")
            return
        for stage in STEMS:
            take(stem / stage, out / stage)
        if self._call(["compress", "--resume", "--out", str(out)], out):
            self._failed[out.name] = complaint(out / LOG)
        if whole_row(out, cell):
            self._keep(out)
            if self.committing:
                self._commit(cell, seed)

    def _keep(self, out: Path) -> None:
        for name in filter(lambda name: (out / name).exists(), KEPT):
            place = self.kept / out.name / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / name, place)

    def _commit(self, cell: Cell, seed: int) -> None:
        """What is kept of it, alone, whatever else is staged, and nothing where git has it. git's own complaint goes
        to the terminal, and the run goes on."""
        place = self.kept / self.path(cell, seed).name
        message = f"{self.scale.name}: {cell.label}, seed {seed}"

        def git(*command: str | Path) -> str:
            return subprocess.run(["git", *command], cwd=self.kept, stdout=subprocess.PIPE, text=True).stdout

        with self._git:
            if place.exists() and git("status", "--porcelain", "--", place):
                git("add", "--", place)
                git("commit", "-q", "-m", message, "--", place)

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
        folders = {self.found(c, s) for c in cells for s in seeds}
        made = [c.at(self.scale, s) for c in cells for s in seeds if self.path(c, s).name.startswith("cell-")]
        folders |= {self.folder / f"stem-{stem_of(recipe)}" for recipe in made}
        files = [folder / COMMIT for folder in folders if (folder / COMMIT).exists()]
        return sorted({line for file in files for line in file.read_text().split()})

    def row(self, cell: Cell, seed: int, whole: bool = False) -> dict[str, Any]:
        """The counting row of a finished cell, or {"error": ...} of a failed one. `whole`: of the run itself, whose
        clips are to be shown; what is kept of another run of it is no success of this one."""
        out = self.path(cell, seed) if whole else self.found(cell, seed)
        if row := row_of(out, cell):
            return {"error": why} if (why := lacks(row)) else row
        return {"error": complaint(out / LOG)}

    def removal(self, cell: Cell, seed: int) -> float | None:
        """The error of x0 with all that the cell's plan removes gone, before any training; None where the plan is of a
        version that did not measure it."""
        path = self.found(cell, seed) / "score" / "plan.json"
        plan = json.loads(path.read_text()) if path.exists() else {}
        return plan.get("removal", {}).get("pruned")

    def minutes(self, cell: Cell, seed: int) -> float:
        """How long stages II and III trained; none of them, 0."""
        marks = (self.found(cell, seed) / stage / "done.json" for stage in ("recover", "distill"))
        return sum(json.loads(mark.read_text()).get("seconds", 0.0) for mark in marks if mark.exists()) / 60


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
