"""A finished run's folder, read. Only `metrics.json` has to be there; the rest may be missing or partial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flc import files
from flc.errors import UserError

Curve = list[tuple[float, float]]
"""(step, value) in the order of the steps."""

STAGES = {"recover": "II, recovery", "distill": "III, distillation"}


@dataclass(frozen=True)
class Run:
    metrics: dict[str, Any]
    plan: dict[str, Any] | None
    lock: str | None
    recipe: dict[str, Any]
    """The lock file's values; empty when it is missing or is not YAML."""
    curves: dict[str, dict[str, Curve] | None]
    """By stage, then by key of the log; None for a stage without a log."""
    videos: dict[str, dict[int, Path]]
    """By row, then by index into the prompts."""
    updates: dict[str, float | None] = field(default_factory=dict)
    """By stage: how often the student was updated; None where that is not told."""


def number(value: Any) -> float | None:
    """A finite number, or None: logs and third-party plans hold NaN, null and text too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_run(out: Path) -> Run:
    lock = read_text(out / "recipe.lock.yaml")
    return Run(
        metrics=read_metrics(out / "metrics.json"),
        plan=read_plan(out / "score" / "plan.json"),
        lock=lock,
        recipe=parse_recipe(lock),
        curves={stage: read_log(out / stage / "log.jsonl") for stage in STAGES},
        videos=find_videos(out / "evaluate" / "videos"),
        updates={stage: read_updates(out / stage / "done.json") for stage in STAGES},
    )


def read_text(path: Path) -> str | None:
    return files.read_text(path) if path.is_file() else None


def read_metrics(path: Path) -> dict[str, Any]:
    text = read_text(path)
    if text is None:
        raise UserError(f"{path} does not exist: run `flc evaluate` first")
    try:
        metrics = files.parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): run `flc evaluate` again") from error
    if not isinstance(metrics, dict) or not isinstance(metrics.get("rows"), list):
        raise UserError(f"{path} has no rows: run `flc evaluate` again")
    return metrics


def read_plan(path: Path) -> dict[str, Any] | None:
    text = read_text(path)
    if text is None:
        return None
    try:
        plan = files.parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): run `flc score` again") from error
    return plan if isinstance(plan, dict) and isinstance(plan.get("kept"), dict) else None


def parse_recipe(lock: str | None) -> dict[str, Any]:
    try:
        values = files.parse_yaml(lock or "")
    except (yaml.YAMLError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_log(path: Path) -> dict[str, Curve] | None:
    """Each key's curve, in the order of appearance. A cut-off line is passed over, as are values that are no
    finite number."""
    text = read_text(path)
    if text is None:
        return None
    curves: dict[str, Curve] = {}
    for line in text.splitlines():
        try:
            entry = files.parse_json(line)
        except ValueError:
            continue
        step = number(entry.pop("step", None)) if isinstance(entry, dict) else None
        if step is None:
            continue
        for key, value in entry.items():
            if (y := number(value)) is not None:
                curves.setdefault(key, []).append((step, y))
    return curves


def read_updates(path: Path) -> float | None:
    try:
        done = files.parse_json(read_text(path) or "null")
    except ValueError:
        return None
    return number(done.get("updates")) if isinstance(done, dict) else None


def find_videos(folder: Path) -> dict[str, dict[int, Path]]:
    """`<row>/<index>.mp4`; a file of another name is none of ours."""
    rows = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = {row.name: {int(p.stem): p for p in row.glob("*.mp4") if p.stem.isdecimal()} for row in rows}
    return {name: clips for name, clips in found.items() if clips}
