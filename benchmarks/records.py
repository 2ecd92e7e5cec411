"""What is kept of finished runs: data, by which tables are written, and not a cache.

    results/runs.jsonl    a line a run, sorted by what it says otherwise than its scale, and by seed
    results/clips.jsonl   the average of each of its clips, which intervals are made of
    results/scales.jsonl  the recipes of scales that the lines differ from, by name and version

A run stands for a cell where its recipe is the cell's, whatever has become of the code since: every option that it was
made with has the value that it has now, and one that has come since its default (`Wanted`). Nor does a line stand for
anything that is averaged over other metrics than today's: what is not comparable is not in one table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from benchmarks.cells import Cell, Scale, described, difference, digest, identity
from benchmarks.common import RESULTS
from flc.errors import UserError
from flc.evaluate.metrics import AVERAGE
from flc.files import write_text
from flc.recipe import ALGORITHMS, Choice, Recipe, merge
from flc.run.compress import completed

RUNS, CLIPS, SCALES = "runs.jsonl", "clips.jsonl", "scales.jsonl"
DIGITS = 6
Place = tuple[str, str, int]


class Record(BaseModel):
    """A line of `runs.jsonl`."""

    model_config = {"frozen": True, "extra": "forbid"}
    label: str
    """What its recipe says otherwise than its scale, in words."""
    scale: str
    seed: int
    commits: tuple[str, ...]
    """That it, and the stages that it shares, were run under."""
    machine: str
    average: float
    averaged: tuple[str, ...]
    """The metrics that the average is the mean of."""
    scores: dict[str, float | None]
    text_only: float | None
    """The average over the clips that were given no first frame, where others were."""
    clips: int
    steps: int
    guidance: float
    parameters: int
    seconds: dict[str, float]
    """Of trainings, by stage."""
    block_evaluations: dict[str, float]
    """Of a batch (a forward 1, a backward through it 2), by stage; none where they were not counted."""
    kept: dict[str, tuple[int, ...]]
    ffn: dict[str, int] | None
    """Channels that are left of feed-forward layers, where some were removed."""
    block_scores: dict[str, tuple[float, ...]]
    baseline: float | None
    """What `block_scores` are errors without a block of: the error with all."""
    removal: dict[str, float]
    """Error of x0 of the whole network and of the pruned one, before any training."""
    shift: float
    sampler: str
    size: tuple[int, int, int]
    of: str
    """The version of the scale's recipe that `recipe` differs from."""
    recipe: dict[str, Any]


def rounded(value: Any) -> Any:
    """Floats to `DIGITS` significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


class Wanted:
    """A recipe as runs are held against it."""

    def __init__(self, recipe: Recipe) -> None:
        names = {kind: Choice(name=getattr(recipe, kind).name) for kind in ALGORITHMS}
        self.shapes = recipe.evaluate.suite == "shapes"
        self.now = dict(flat(identity(recipe)))
        self.default = dict(flat(completed(Recipe(**names)).model_dump(mode="json")))

    def other(self, made_with: Mapping[str, Any]) -> str:
        """Why a run made with these values is none of this recipe, by the first option that tells; "" where it is."""
        was = dict(flat(made_with))
        for key, value in self.now.items():
            before = was[key] if key in was else self.default.get(key)
            if before != value:
                return f"{key} was {before}, is {value}"
        gone = (key for key, value in was.items() if key not in self.now and value)  # off, it changed nothing
        return next((f"{key} was {was[key]}, and is no option today" for key in gone), "")


class Records:
    """The files of a folder, read again when another process has written them."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self._lock = folder or RESULTS, Lock()
        self._held: dict[str, tuple[Any, Any]] = {}

    def _read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file; one that is not there has none. `UserError` for a line that is no JSON."""
        path = self.folder / name
        if not path.exists():
            return []
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        if self._held.get(name, (None,))[0] != stamp:
            found = []
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise UserError(f"{path}, line {number} is no JSON: take it from git again") from error
            self._held[name] = (stamp, found)
        return self._held[name][1]

    def all(self) -> list[Record]:
        lines = self._read(RUNS)
        if self._held.get("records", (None,))[0] is not lines:
            try:
                self._held["records"] = (lines, [Record.model_validate(line) for line in lines])
            except ValidationError as error:
                wrong = error.errors()[0]
                where = ".".join(map(str, wrong["loc"]))
                raise UserError(
                    f"{self.folder / RUNS} holds a line that is no run's: {where}: {wrong['msg']}"
                ) from error
        return self._held["records"][1]

    def scales(self) -> dict[str, Any]:
        """The recipes of scales, by name and version."""
        return {name: recipe for line in self._read(SCALES) for name, recipe in line.items()}

    def why_not(self, record: Record, wanted: Wanted) -> str:
        """Why a record does not stand for a recipe; "" where it does."""
        if wanted.shapes and set(record.averaged) != set(AVERAGE):
            return "its average is over other metrics than today's"
        base = self.scales()[f"{record.scale} {record.of}"]
        return wanted.other(merge(base, record.recipe) | {"seed": record.seed})

    def find(self, scale: Scale, recipe: Recipe) -> Record | None:
        """The run of a recipe."""
        wanted = Wanted(recipe)
        own = (r for r in self.all() if r.scale == scale.name and r.seed == recipe.seed)
        return next((r for r in own if not self.why_not(r, wanted)), None)

    def clips(self, record: Record) -> np.ndarray | None:
        """(n,) the average of each clip of a run, in the order of its prompts; None where they were not kept."""
        found = [line for line in self._read(CLIPS) if place_of(line) == place_of(record.model_dump())]
        return np.array(found[0]["averages"]) if found else None

    def put(self, cell: Cell, scale: Scale, recipe: Recipe, facts: Mapping[str, Any], clips: Sequence[float]) -> Record:
        """A finished run in place of an earlier one of this scale, label and seed."""
        plain = {k: v for k, v in identity(Cell("").at(Scale(scale.name), recipe.seed)).items() if k != "seed"}
        own = {k: v for k, v in identity(recipe).items() if k != "seed"}
        version, label = digest(plain), described(cell, scale)
        about: dict[str, Any] = {"label": label, "scale": scale.name, "seed": recipe.seed}
        record = Record(**about, of=version, recipe=difference(own, plain), **rounded(dict(facts)))
        with self._lock:
            bases = self.scales() | {f"{scale.name} {version}": plain}
            runs = {place_of(line): line for line in self._read(RUNS)}
            averages = {place_of(line): line for line in self._read(CLIPS)}
            runs[place_of(about)], averages[place_of(about)] = record.model_dump(mode="json"), None
            if len(clips):
                averages[place_of(about)] = about | {"averages": rounded(list(clips))}
            self._write(runs, {place: line for place, line in averages.items() if line}, bases)
        return record

    def _write(self, runs: Mapping[Place, Any], clips: Mapping[Place, Any], bases: Mapping[str, Any]) -> None:
        """Sorted; scales that no run differs from any more are dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        used = sorted({f"{run['scale']} {run['of']}" for run in runs.values()})
        kept = (
            [{name: bases[name]} for name in used],
            *([lines[key] for key in sorted(lines)] for lines in (clips, runs)),
        )
        for name, lines in zip((SCALES, CLIPS, RUNS), kept, strict=True):
            if lines or (self.folder / name).exists():
                write_text(self.folder / name, "".join(json.dumps(line) + "\n" for line in lines))


def place_of(line: Mapping[str, Any]) -> Place:
    """What a line is sorted by; no two of a file have it in common."""
    return line["scale"], line["label"], line["seed"]
