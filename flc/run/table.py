"""The table of a run's rows, as the terminal and the model card have it."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as Rich
from rich.table import Table

from flc.models.folder import read_json
from flc.run.job import Job

GUARDS = ("distribution", "diversity")
#: What the terminal has beside the scores, in its own words.
COSTS = ("", "steps", "guidance", "M parameters", "s/clip")
#: The scores that 80 characters have room for, and what they are called there.
FIRST, SHORT = ("average", "caption_accuracy", *GUARDS), {"caption_accuracy": "caption"}
GAP = 2
"""Characters between two columns of the terminal's table."""


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


def short_title(row: dict[str, Any]) -> str:
    """What a row of the terminal's table is called: the number of steps has a column there."""
    return str(row["title"]).replace(f", {row['steps']} steps", "").replace(" only", "")


def terminal_columns(metrics: dict[str, Any]) -> list[list[str]]:
    """Each as its name in words, then its cells; those first that a narrow terminal shows."""
    rows, cells = metrics["rows"], table_rows(metrics)
    unit = 1e9 if max(row["parameters"] for row in rows) >= 1e9 else 1e6
    columns = [
        ["", *map(short_title, rows)],
        ["steps", *(str(row["steps"]) for row in rows)],
        ["size", *(f"{row['parameters'] / unit:.3g}" for row in rows)],
        ["time", *(f"{s:.3f}" if (s := row["seconds"]) < 10 else f"{s:.1f}" for row in rows)],
    ]
    names = [name for name in table_columns(metrics) if name not in COSTS]
    first = [name for name in (*FIRST, *pair_labels(metrics)) if name in names]
    for name in [*first, *(name for name in names if name not in first), "guidance"]:
        columns.append([SHORT.get(name, name.replace("_", " ")), *(row.get(name, "") for row in cells)])
    return columns


def width_of(column: list[str]) -> int:
    """The name of a column may be broken between its words, its cells may not; of a row's name 24 characters stay."""
    head, *cells = column
    return max(min(24, max(map(len, cells))), *map(len, head.split()), 0)


def fitting(columns: list[list[str]], width: int) -> list[list[str]]:
    """Columns, the first ones in any case, until the next one would not fit."""
    shown: list[list[str]] = []
    taken = -GAP
    for column in columns:
        taken += width_of(column) + GAP
        if taken > width and len(shown) > 1:
            break
        shown.append(column)
    return shown


def print_table(job: Job) -> None:
    """On a terminal what fits it; all of it in a file or a pipe, which have no width to fit."""
    metrics = read_json(job.out / "metrics.json")
    columns, out = terminal_columns(metrics), Rich()
    shown = fitting(columns, out.width) if out.is_terminal else columns
    unit = "billions" if max(row["parameters"] for row in metrics["rows"]) >= 1e9 else "millions"
    suite = "" if metrics["suite"] == "shapes" else f"VBench, suite {metrics['suite']}: "
    title = f"{suite}{metrics['clips']} clips a row, seed {metrics['seed']}; scores in [0, 1], higher is better\n"
    table = Table(title=f"{title}size: {unit} of parameters; time: seconds a clip", title_justify="left",
                  box=SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)  # fmt: skip
    for number, column in enumerate(shown):
        table.add_column(column[0], justify="right" if number else "left", width=width_of(column), overflow="fold")
    for cells in zip(*(column[1:] for column in shown), strict=True):
        table.add_row(*cells)
    whole = sum(map(width_of, shown)) + GAP * len(shown)
    (out if out.is_terminal else Rich(width=max(whole, len(title)))).print(table)
    if left := [column[0] for column in columns[len(shown) :]]:
        out.print(
            f"in {job.out / 'metrics.json'}, or a wider terminal: {', '.join(left)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
