"""What a run of `flc compress` would leave of a cell, as far as the benchmarks look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.records import Record
from benchmarks.runner import COMMIT, TRAININGS, Runs, begin
from flc.evaluate.metrics import AVERAGE

SCORES = {"caption_accuracy": 0.9, "distribution": 0.5}
PLAN = {
    "scores": {"blocks": [3.0, 0.1, 0.2]}, "kept": {"blocks": [0, 1]}, "channels": None, "block_evaluations": 6,
    "batch": 32,
    "details": {"baseline": 0.05}, "removal": {"clips": 64, "whole": 0.1, "pruned": 0.2},
}  # fmt: skip
STUDENT = {"ffn": None, "shift": 3.0, "sampler": "sde", "size": [5, 32, 32]}


def row(average: float | None, **more: Any) -> dict[str, Any]:
    about = {"name": "student", "steps": 4, "guidance": 1.0, "parameters": 10, "seconds": 1.0, "notes": {}}
    return about | {"average": average, "scores": SCORES} | more


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def leave(
    out: Path, average: float | None, seconds: float = 60.0, plan: dict[str, Any] | None = None, **more: Any
) -> None:
    """A finished run's files in its folder; `more` of its row."""
    metrics = {
        "rows": [row(average, **more)], "clips": 2, "metrics": [{"name": n, "in_average": True} for n in AVERAGE],
        "hardware": {"cpu": "abacus"}, "versions": {"torch": "2"},
        "prompts": [{"caption": f"clip {i}"} for i in range(8)],
    }  # fmt: skip
    write(out / "metrics.json", metrics)
    write(out / "score" / "plan.json", PLAN | (plan or {}))
    write(out / "pipeline" / "flc.json", STUDENT | {"kept": (PLAN | (plan or {}))["kept"]})
    for stage in TRAININGS:
        trained = {"seconds": seconds, "block_evaluations": 100.0} if stage != "score" else {}
        write(out / stage / "done.json", {"fingerprint": {"options": {}, "inputs": {}}, "stage": str(out)} | trained)


def finish(runs: Runs, cell: Cell, seed: int, average: float, **more: Any) -> Record:
    """A cell that was run: its folder and its line."""
    out, recipe = runs.path(cell, seed), cell.at(runs.scale, seed)
    if not (out / COMMIT).exists():
        begin(out, recipe)
    leave(out, average, **more)
    runs._keep(cell, recipe, out)
    record = runs.record(cell, seed)
    assert record is not None
    return record
