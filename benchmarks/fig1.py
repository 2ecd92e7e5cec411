"""Sampling steps against retained parameters, as a contour of the average (the paper's Fig 1).

    python -m benchmarks.fig1 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Every point is a run of its own: pruned to that share, distilled for that many steps; those of 4 are Table 6's. The
paper draws the mean of three of VBench's dimensions: so does this, where the suite has them, and the suite's average
where it has not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import figure, paper
from benchmarks.cells import Cell
from benchmarks.common import spread
from benchmarks.render import GUARDS, guarded, head, line, over, pair
from benchmarks.runner import Runs, summary
from benchmarks.table import WHOLE

STEPS, KEEPS = (1, 2, 4), (0.3, 0.5, 0.7, 1.0)
#: Behind a number, which is drawn inside the axes: readable on every colour.
PLATE = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"}


def cell(steps: int, keep: float) -> Cell:
    """With nothing removed there is no stage II: its iterations are in stage III."""
    label = f"{steps} step{'s' * (steps > 1)}, {keep:.0%} of the blocks"
    if keep == 1:
        return Cell(label, {**WHOLE, "steps": steps}, all_in="distill")
    return Cell(label, {"steps": steps, "keep": keep})


CELLS = [cell(steps, keep) for steps in STEPS for keep in KEEPS]


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    points = []
    names = paper.dimensions(paper.printed("fig1"))
    for steps in STEPS:
        for keep in KEEPS:
            rows = [runs.row(cell(steps, keep), s) for s in seeds]
            found = summary(rows) | {"steps": steps, "keep": keep}
            if values := paper.averages(rows, names):
                found["as_paper"] = spread(values)
            points.append(found)
    return {"points": points}


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    good = [p for p in values["points"] if "average" in p]
    (key, name), (drawing, ((axes,),)) = figure.comparable(good, "fig1"), figure.axes()
    means = {(p["steps"], p["keep"]): p[key]["mean"] for p in good}
    if len(means) == len(STEPS) * len(KEEPS):
        grid = [[means[s, k] for s in STEPS] for k in KEEPS]
        contour = axes.contourf(range(len(STEPS)), [100 * k for k in KEEPS], grid, levels=8, cmap="viridis")
        drawing.colorbar(contour, label=f"{name} (mean over seeds)")
    for (steps, keep), mean in means.items():
        here = STEPS.index(steps), 100 * keep
        side, right = {STEPS[0]: ("left", 8), STEPS[-1]: ("right", -8)}.get(steps, ("center", 0))
        end, up = ("bottom", 8) if keep == KEEPS[0] else ("top", -8)
        axes.plot(*here, "ko", clip_on=False)
        axes.annotate(
            f"{mean:.3f}", here, xytext=(right, up), ha=side, va=end, textcoords="offset points", fontsize=9, bbox=PLATE
        )
    axes.set_xticks(range(len(STEPS)), [str(s) for s in STEPS])
    axes.set_xlabel("sampling steps")
    axes.set_ylabel("block parameters kept, %")
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    """One row a share and one column a number of steps."""
    found, printed = {(p["steps"], p["keep"]): p for p in values["points"]}, paper.printed("fig1")
    theirs = [over("fig1")] * any("as_paper" in p for p in values["points"])
    lines = head([" / ".join([*theirs, "average", *GUARDS]), *(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS)])
    for keep in KEEPS:
        lines.append(line([f"{keep:.0%} of the blocks", *(said(found[steps, keep]) for steps in STEPS)]))
    return [*lines, "", f"The paper's Fig 1. {printed['notes']}"]


def said(point: dict[str, Any]) -> str:
    if "average" not in point:
        return f"failed: {point['error']}"
    return " / ".join([*(pair(point[key]) for key in ("as_paper",) if key in point), *guarded(point)])


if __name__ == "__main__":
    sys.exit(figure.main("fig1", __doc__, CELLS, measure, draw, markdown))
