"""Score against time (the paper's Fig 2), from the runs of Table 2; the paper's own points have axes of their own.

python -m benchmarks.fig2 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import figure, table
from benchmarks.cells import Cell
from benchmarks.paper import printed
from benchmarks.render import GUARDS, guarded, head, line, lowest_shown, pair
from benchmarks.runner import Runs
from benchmarks.table2 import table as methods

MARKERS = "osD^vP*Xd<>"


def cells(scale: str) -> list[Cell]:
    return methods(scale).cells


def of_the_paper() -> str:
    return f"printed in the paper ({printed('table2')['of']}, its own machines)"


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    found = table.measure(methods(runs.scale.name), runs, seeds)
    kept = ("seconds", "average", "as_paper", "scores")
    timed = {label: row for label, row in found["rows"].items() if "seconds" in row}
    points = {label: {k: row[k] for k in kept if k in row} for label, row in timed.items()}
    paper = {label: {k: row[k] for k in ("seconds", "average")} for label, row in found["paper"].items()}
    return {"points": points, "paper": paper}


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    """A row has one marker and colour in both panels: several take the same time, where names would overprint. A score
    far below the others stands as a number at the edge."""
    drawing, ((ours, theirs),) = figure.axes(12, 4.6, 2)
    from matplotlib.lines import Line2D

    key, name = figure.comparable(list(values["points"].values()), "table2")
    labels = list(dict.fromkeys([*values["points"], *values["paper"]]))
    looks = {label: {"marker": MARKERS[i], "color": f"C{i % 10}"} for i, label in enumerate(labels)}
    least = lowest_shown([point[key]["mean"] for point in values["points"].values()])
    for label, point in values["points"].items():
        x, y = point["seconds"], point[key]
        if y["mean"] < least:
            edge = ours.get_xaxis_transform()  # its y is a share of the panel's height
            ours.plot(x["mean"], 0.04, **looks[label], linestyle="none", transform=edge)
            ours.text(x["mean"], 0.07, f"{y['mean']:.3f} ↓", fontsize=8, ha="center", transform=edge)
            continue
        ours.errorbar(x["mean"], y["mean"], xerr=x["spread"], yerr=y["spread"], **looks[label], linestyle="none")
    for label, point in values["paper"].items():
        theirs.plot(point["seconds"], point["average"], **looks[label], linestyle="none")
    for axes, title, mean in ((ours, "measured here", name), (theirs, of_the_paper(), "average")):
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("seconds of sampling a clip")
        axes.set_ylabel(mean)
        axes.grid(alpha=0.3)
        axes.margins(x=0.1, y=0.1)
    handles = [Line2D([], [], **look, linestyle="none", label=label) for label, look in looks.items()]
    theirs.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    points = values["points"]
    key, name = figure.comparable(list(points.values()), "table2")
    theirs = [name] * (key != "average")
    lines = head(["measured here", "seconds a clip", *theirs, "average", *GUARDS])
    for label, p in points.items():
        lines.append(line([label, pair(p["seconds"]), *(pair(p[key]) for _ in theirs), *guarded(p)]))
    lines += ["", *head([of_the_paper(), "seconds a clip", "average"])]
    return lines + [line([label, f"{p['seconds']:g}", f"{p['average']:g}"]) for label, p in values["paper"].items()]


if __name__ == "__main__":
    sys.exit(figure.main("fig2", __doc__, cells, measure, draw, markdown))
