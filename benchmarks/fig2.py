"""Score against time (the paper's Fig 2), from the runs of Table 2; the paper's own points have axes of their own.

python -m benchmarks.fig2 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import figure, table
from benchmarks.cells import Runs
from benchmarks.render import GUARDS, guarded, head, line, pair
from benchmarks.table2 import TABLE

CELLS = TABLE.cells


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    found = table.measure(TABLE, runs, seeds)
    wanted = ("seconds", "average", "scores")
    points = {label: {k: row[k] for k in wanted if k in row} for label, row in found["rows"].items()}
    paper = {label: {k: row[k] for k in ("seconds", "average")} for label, row in found["paper"].items()}
    return {"points": {label: p for label, p in points.items() if len(p) == len(wanted)}, "paper": paper}


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    drawing, ((ours, theirs),) = figure.axes(11, 4.2, 2)
    for label, point in values["points"].items():
        x, y = point["seconds"], point["average"]
        ours.errorbar(x["mean"], y["mean"], xerr=x["spread"], yerr=y["spread"], fmt="o")
        ours.annotate(label, (x["mean"], y["mean"]), textcoords="offset points", xytext=(5, 5), fontsize=8)
    for label, point in values["paper"].items():
        theirs.plot(point["seconds"], point["average"], "s", color="grey")
        theirs.annotate(
            label, (point["seconds"], point["average"]), textcoords="offset points", xytext=(5, 5), fontsize=8
        )
    for axes, title in ((ours, "measured here"), (theirs, "printed in the paper (VBench, its own machines)")):
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("seconds of sampling a clip")
        axes.set_ylabel("average")
        axes.grid(alpha=0.3)
        axes.margins(x=0.25, y=0.15)
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    lines = head(["measured here", "seconds a clip", "average", *GUARDS])
    lines += [line([label, pair(p["seconds"]), *guarded(p)]) for label, p in values["points"].items()]
    lines += ["", *head(["printed in the paper (VBench, its own machines)", "seconds a clip", "average"])]
    return lines + [line([label, f"{p['seconds']:g}", f"{p['average']:g}"]) for label, p in values["paper"].items()]


if __name__ == "__main__":
    sys.exit(figure.main("fig2", __doc__, CELLS, measure, draw, markdown))
