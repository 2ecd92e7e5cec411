"""Cells of a comparison: runs of `flc compress` that differ in a few choices, cached, resumable, sharing stages.

A cell is a recipe. Its folder is named after the recipe's hash, so a cell that was run is not run again, whichever
table asks for it, and a changed option is another cell. Cells that agree on data, pruner and recovery take those
stages from one another: `stems` are run first, one for each distinct recipe up to stage II.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import ROOT, spread
from flc.recipe import Choice, Recipe, lock_text, merge, resolve
from flc.run.compress import LOCK, completed

SCALES = Path(__file__).parent / "scales"
#: Kinds with a learning rate of their own, searched for by `benchmarks.search`.
RATED = ("recovery", "distiller")
#: Recipe fields that decide each shared stage, from the first to the last; later stages need the earlier ones' too.
STEMS = {
    "data": ("model", "data", "seed", "height", "width", "frames", "dtype", "device", "prepare"),
    "score": ("pruner", "keep", "score", "negative_prompt"),
    "prune": (),
    "recover": ("recovery", "recover", "engine", "zero"),
}


@dataclass(frozen=True)
class Cell:
    """One method at one setting. `values` is laid over the scale's recipe; `row` is what counts of its metrics."""

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    row: str = "student"

    def at(self, scale: str, seed: int) -> Recipe:
        base = yaml.safe_load((SCALES / f"{scale}.yaml").read_text())
        rates = base.pop("rates", {})
        recipe = resolve(merge(merge(base, self.values), {"seed": seed}), {}, {})
        return completed(recipe.model_copy(update={kind: rated(recipe, kind, rates, self.values) for kind in RATED}))


def rated(recipe: Recipe, kind: str, rates: dict[str, Any], values: dict[str, Any]) -> Choice:
    """The algorithm of this kind with its best learning rate of the scale, unless the cell gives one."""
    choice: Choice = getattr(recipe, kind)
    given = values.get(kind)
    best = rates.get(kind, {}).get(choice.name)
    if best is None or (isinstance(given, dict) and "lr" in given):
        return choice
    return Choice(name=choice.name, **choice.options | best)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def stem_of(recipe: Recipe) -> str:
    """Name of the shared part of a recipe: everything up to stage II."""
    values = recipe.model_dump(mode="json")
    return digest({name: values[name] for names in STEMS.values() for name in names})


class Runs:
    """The runs of one scale in a folder; at most `jobs` at a time, one core each."""

    def __init__(self, folder: Path, scale: str, jobs: int) -> None:
        self.folder, self.scale, self.jobs = folder / scale, scale, jobs

    def path(self, cell: Cell, seed: int) -> Path:
        return self.folder / f"cell-{digest(cell.at(self.scale, seed).model_dump(mode='json'))}"

    def missing(self, cells: list[Cell], seeds: list[int]) -> list[tuple[Cell, int]]:
        """Runs still to do, each folder once."""
        wanted = {self.path(c, s): (c, s) for c in cells for s in seeds}
        return [pair for path, pair in wanted.items() if not (path / "metrics.json").exists()]

    def run(self, cells: list[Cell], seeds: list[int]) -> None:
        todo = self.missing(cells, seeds)
        stems: dict[str, Recipe] = {}
        for cell, seed in todo:
            recipe = cell.at(self.scale, seed)
            stems.setdefault(stem_of(recipe), recipe)
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._stem, stems.values()))
            list(pool.map(lambda pair: self._cell(*pair), todo))

    def _stem(self, recipe: Recipe) -> None:
        out = self.folder / f"stem-{stem_of(recipe)}"
        if not (out / "recover" / "done.json").exists():
            begin(out, recipe)
            for stage in ("score", "prune", "recover"):
                if call(
                    [stage, "--resume", "--out", str(out)] if stage == "score" else [stage, "--out", str(out)], out
                ):
                    return  # the cells that need it will say why

    def _cell(self, cell: Cell, seed: int) -> None:
        recipe, out = cell.at(self.scale, seed), self.path(cell, seed)
        begin(out, recipe)
        stem = self.folder / f"stem-{stem_of(recipe)}"
        for stage in STEMS:
            if (stem / stage / "done.json").exists() and not (out / stage).exists():
                shutil.copytree(stem / stage, out / stage, copy_function=os.link)
        call(["compress", "--resume", "--out", str(out)], out)

    def row(self, cell: Cell, seed: int, name: str = "") -> dict[str, Any]:
        """The counting row of a finished cell, or {"error": ...} of a failed one."""
        out = self.path(cell, seed)
        if (out / "metrics.json").exists():
            rows = json.loads((out / "metrics.json").read_text())["rows"]
            return next(r for r in rows if r["name"] == (name or cell.row))
        log = out / "log.txt"
        lines = log.read_text().strip().splitlines() if log.exists() else []
        return {"error": lines[-1] if lines else "not run"}


def begin(out: Path, recipe: Recipe) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / LOCK).write_text(lock_text(recipe))


def call(arguments: list[str], out: Path) -> int:
    """`flc` in a process of its own, on one core; what it says is in log.txt."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(out / "log.txt", "w") as log:
        command = [sys.executable, "-m", "flc", *arguments]
        return subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT).returncode


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds of a cell's rows; with an error when one failed."""
    good = [r for r in rows if "error" not in r]
    errors = [r["error"] for r in rows if "error" in r]
    if not good:
        return {"error": errors[0]}
    names = [n for n, v in good[0]["scores"].items() if v is not None]
    out: dict[str, Any] = {k: good[0][k] for k in ("steps", "guidance", "parameters")}
    out |= {"average": spread([r["average"] for r in good]), "seconds": spread([r["seconds"] for r in good])}
    out["scores"] = {n: spread([r["scores"][n] for r in good]) for n in names}
    return out | ({"error": errors[0]} if errors else {})
