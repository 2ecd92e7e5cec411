"""Sampling steps against retained parameters, as a contour of the average (the paper's Fig 1).

    python -m benchmarks.fig1 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Every point is a run of its own: pruned to that share, distilled for that many steps. The paper draws the mean of three
of VBench's dimensions; here it is the suite's average.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import figure
from benchmarks.cells import Cell, Runs, summary
from benchmarks.render import GUARDS, guarded, head, line

STEPS, KEEPS = (2, 4, 8), (0.5, 0.7, 0.9)


def cell(steps: int, keep: float) -> Cell:
    return Cell(f"{steps} steps, {keep:.0%} of the blocks", {"steps": steps, "keep": keep})


CELLS = [cell(steps, keep) for steps in STEPS for keep in KEEPS]


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    points = []
    for steps in STEPS:
        for keep in KEEPS:
            found = summary([runs.row(cell(steps, keep), s) for s in seeds])
            points.append(found | {"steps": steps, "keep": keep})
    return {"points": points}


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    good = [p for p in values["points"] if "average" in p]
    if not good:
        return
    drawing, ((axes,),) = figure.axes()
    means = {(p["steps"], p["keep"]): p["average"]["mean"] for p in good}
    if len(means) == len(STEPS) * len(KEEPS):
        grid = [[means[s, k] for s in STEPS] for k in KEEPS]
        contour = axes.contourf(range(len(STEPS)), [100 * k for k in KEEPS], grid, levels=8, cmap="viridis")
        drawing.colorbar(contour, label="average (mean over seeds)")
    for (steps, keep), mean in means.items():
        axes.plot(STEPS.index(steps), 100 * keep, "ko", clip_on=False)
        axes.annotate(f"{mean:.3f}", (STEPS.index(steps), 100 * keep), textcoords="offset points", xytext=(6, -12))
    axes.set_xticks(range(len(STEPS)), [str(s) for s in STEPS])
    axes.set_xlabel("sampling steps")
    axes.set_ylabel("block parameters kept, %")
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    """One row a share and one column a number of steps."""
    found = {(p["steps"], p["keep"]): p for p in values["points"]}
    lines = head([" / ".join(["average", *GUARDS]), *(f"{steps} steps" for steps in STEPS)])
    for keep in KEEPS:
        lines.append(line([f"{keep:.0%} of the blocks", *(said(found[steps, keep]) for steps in STEPS)]))
    return lines


def said(point: dict[str, Any]) -> str:
    if "average" not in point:
        return f"failed: {point['error']}"
    return " / ".join(guarded(point))


if __name__ == "__main__":
    sys.exit(figure.main("fig1", __doc__, CELLS, measure, draw, markdown))
