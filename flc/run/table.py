"""The table of a run's rows, as the terminal and the model card have it."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console as Rich
from rich.table import Table

from flc.models.folder import read_json
from flc.run.job import Job

GUARDS = ("distribution", "diversity")


def pair_labels(metrics: dict[str, Any]) -> list[str]:
    """Columns for what was measured between two rows; each says its direction itself."""
    return [pair["label"] for pair in metrics.get("pairs", [])]


def table_columns(metrics: dict[str, Any]) -> list[str]:
    """Of the model card's table: cost, average, its metrics, and what stands beside it."""
    names = [m["name"] for m in metrics["metrics"]]
    guards = [n for n in GUARDS if n in names]
    head = ["", "steps", "guidance", "M parameters", "s/clip", "average"]
    return [*head, *[n for n in names if n not in guards], *guards, *pair_labels(metrics)]


def table_rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """metrics.json as the table of the terminal and the model card."""
    out = []
    for row in metrics["rows"]:
        cells = {"": row["title"], "steps": str(row["steps"]), "guidance": f"{row['guidance']:g}",
                 "M parameters": f"{row['parameters'] / 1e6:.2f}", "s/clip": f"{row['seconds']:.3f}",
                 }  # fmt: skip
        values = {"average": row["average"], **row["scores"]}
        cells |= {name: "n/a" if value is None else f"{value:.3f}" for name, value in values.items()}
        cells |= {p["label"]: f"{p['value']:.3f}" for p in metrics.get("pairs", []) if p["rows"][-1] == row["name"]}
        out.append(cells)
    return out


def print_table(job: Job) -> None:
    metrics = read_json(job.out / "metrics.json")
    title = f"{metrics['clips']} clips, seed {metrics['seed']}; all scores in [0, 1], higher is better"
    suite = metrics["suite"]
    table = Table(title=title if suite == "shapes" else f"VBench, suite {suite}: {title}")
    columns = ["", "steps", "M parameters", "s/clip", "average"]
    if suite == "shapes":
        columns += ["caption_accuracy", "distribution", "diversity", *pair_labels(metrics)]
    else:
        columns += [n for n in table_columns(metrics) if n not in (*columns, "guidance")]
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for row in table_rows(metrics):
        table.add_row(*[row.get(c, "") for c in columns])
    wide = None if sys.stdout.isatty() else 160  # in a file or a pipe there is no width to fit
    Rich(width=wide).print(table)
