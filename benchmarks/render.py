"""A measured table as markdown and as a picture. The paper's numbers stand in columns and tables of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: The average's parts and the guards, in the order of the columns; another suite's come after them.
SCORES = ("caption_accuracy", "dynamic_degree", "motion_smoothness", "temporal_flicker", "sharpness",
          "first_frame_fidelity", "distribution", "diversity")  # fmt: skip
#: What an average is never printed without.
GUARDS = ("distribution", "diversity")
#: Columns of the paper that need a model which cannot be had.
PROPRIETARY = ("lip sync",)


def markdown(values: dict[str, Any]) -> str:
    found = {name for row in values["rows"].values() for name in row.get("scores", {})}
    names = [n for n in SCORES if n in found] + sorted(found - set(SCORES))
    absent = [n for n in PROPRIETARY if any(n in paper["columns"] for paper in values["paper_tables"].values())]
    columns = ["", "steps", "M", "seconds", "speed-up", "average", f"less {values['reference']}'s"]
    columns += [*(n.replace("_", " ") for n in names), *absent, "paper: average"]
    lines = [f"## {values['title']}", "", *head(columns)]
    for label, row in values["rows"].items():
        theirs = values["paper"].get(label, {}).get("average")
        if "average" in row:
            ahead = "" if label == values["reference"] or "ahead" not in row else signed(row["ahead"])
            cells = [str(row["steps"]), f"{row['parameters'] / 1e6:.2f}", times(row), ratio(row.get("speed_up"))]
            cells += [pair(row["average"]), ahead]
            cells += [pair(row["scores"][n]) if n in row["scores"] else "n/a" for n in names] + ["n/a"] * len(absent)
        else:
            cells = [""] * 4 + [f"failed: {row['error']}"] + [""] * (1 + len(names) + len(absent))
        lines.append(line([label, *cells, number(theirs)]))
    for label, row in values["rows"].items():
        if "average" in row and "error" in row:
            lines += ["", f"{label}: of {row['average']['n']} of {len(values['seeds'])} seeds; {row['error']}"]
    if values.get("notes"):
        lines += ["", values["notes"]]
    for name, paper in values["paper_tables"].items():
        lines += ["", f"The paper's {name.replace('table', 'Table ')}, as printed:", "", *head(["", *paper["columns"]])]
        lines += [line([key, *map(number, row)]) for key, row in paper["rows"].items()]
    return "\n".join(lines) + "\n"


def guarded(row: dict[str, Any]) -> list[str]:
    """Cells of a row's average and its guards; n/a where a suite has none."""
    return [pair(row["average"]), *(pair(row["scores"][n]) if n in row["scores"] else "n/a" for n in GUARDS)]


def head(columns: list[str]) -> list[str]:
    return [line(columns), "|" + "---|" * len(columns)]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(v: float | None) -> str:
    return "" if v is None else f"{v:.1f}" if v >= 10 else f"{v:.3f}"


def times(row: dict[str, Any]) -> str:
    return f"{row['seconds']['mean']:.3f}" if "seconds" in row else "n/a"


def ratio(v: dict[str, float] | None) -> str:
    return "n/a" if v is None else f"{v['mean']:.1f} ± {v['spread']:.1f}×"


def pair(v: dict[str, float]) -> str:
    return f"{v['mean']:.3f} ± {v['spread']:.3f}"


def signed(v: dict[str, float]) -> str:
    return f"{v['mean']:+.3f} ± {v['spread']:.3f}"


def picture(values: dict[str, Any], path: Path) -> None:
    """Averages as points with their spread; the paper's own numbers are not drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {label: r["average"] for label, r in values["rows"].items() if "average" in r}
    figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(rows) + 1.2))
    places = range(len(rows))
    axes.errorbar([r["mean"] for r in rows.values()], places, xerr=[r["spread"] for r in rows.values()], fmt="o")
    axes.set_yticks(places, list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("average (mean ± spread over seeds)")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
