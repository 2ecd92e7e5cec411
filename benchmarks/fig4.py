"""Importance of each block under Eq 4, over depth (the paper's Fig 4).

    python -m benchmarks.fig4 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Stage I of the flagship's runs: the x0 error without each block, the error with all, and which were removed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import figure
from benchmarks.cells import Cell
from benchmarks.common import spread
from benchmarks.render import head, line, pair
from benchmarks.runner import Runs

CELL = Cell("fastlightgen")
CELLS = [CELL]


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    made = [record for s in seeds if (record := runs.record(CELL, s))]
    stacks = made[0].block_scores
    errors = {s: [spread([r.block_scores[s][i] for r in made]) for i in range(len(stacks[s]))] for s in stacks}
    kept = {s: [sum(i in r.kept[s] for r in made) for i in range(len(stacks[s]))] for s in stacks}
    return {
        "plans": len(made),
        "error_without": errors,
        "kept_in_seeds": kept,
        "error_with_all": spread([r.baseline for r in made if r.baseline is not None]),
    }


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    stacks = values["error_without"]
    drawing, (panels,) = figure.axes(7, 3.6, max(1, len(stacks)))
    for axes, (stack, errors) in zip(panels, stacks.items(), strict=False):
        always = [count == values["plans"] for count in values["kept_in_seeds"][stack]]
        colours = ["tab:blue" if yes else "tab:orange" for yes in always]
        axes.bar(range(len(errors)), [e["mean"] for e in errors], yerr=[e["spread"] for e in errors], color=colours)
        axes.axhline(values["error_with_all"]["mean"], color="black", linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.set_xticks(range(len(errors)))
        axes.set_xlabel(f"{stack}: block left out (orange: removed in some seed; dashes: none left out)")
        axes.set_ylabel("x0 error (Eq 4)")
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    lines = [f"x0 error with all blocks: {pair(values['error_with_all'])}", ""]
    lines += head(["block left out", "x0 error (Eq 4)", f"kept in runs, of {values['plans']}"])
    for stack, errors in values["error_without"].items():
        kept = values["kept_in_seeds"][stack]
        lines += [line([f"{stack} {i}", pair(error), str(kept[i])]) for i, error in enumerate(errors)]
    return lines


if __name__ == "__main__":
    sys.exit(figure.main("fig4", __doc__, CELLS, measure, draw, markdown))
