"""The paper's printed numbers (`paper.yaml`), and what of ours is comparable with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from flc.evaluate.vbench_layout import DIMENSIONS

PAPER = Path(__file__).with_suffix(".yaml")


def printed(name: str) -> dict[str, Any]:
    """A table (or figure) of the paper: `of`, `columns`, `rows`, and perhaps `notes`."""
    table: dict[str, Any] = yaml.safe_load(PAPER.read_text())[name]
    return table


def title(name: str) -> str:
    """`Table 2` of `table2`."""
    return name.replace("table", "Table ").replace("fig", "Fig ")


def dimensions(paper: Mapping[str, Any]) -> list[str]:
    """VBench's dimensions among a table's columns: those that its average is the mean of."""
    names = [column.replace(" ", "_") for column in paper["columns"]]
    return [name for name in names if name in DIMENSIONS["vbench-i2v"]]


def averages(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[float]:
    """Each finished row's mean over exactly these dimensions; none at all where one has not got them, as under another
    suite: our own average is over all dimensions of its suite, the paper's seldom."""
    scores = [row["scores"] for row in rows if "scores" in row]
    whole = bool(names) and all(s.get(name) is not None for s in scores for name in names)
    return [mean(s[name] for name in names) for s in scores] if whole else []
