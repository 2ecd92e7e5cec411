"""A measured table as markdown and as a picture. The paper's numbers stand in columns and tables of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import title

#: The average's parts, what stands beside it and the guards, in the order of the columns; another suite's come after.
SCORES = ("caption_accuracy", "dynamic_degree", "motion_smoothness", "temporal_flicker", "sharpness",
          "subject_consistency", "first_frame_fidelity", "distribution", "diversity")  # fmt: skip
COLUMNS = (
    "M: millions of parameters. Iterations: of stages II and III. Evaluations: thousands of block evaluations of a"
    " batch in stages I to III, counted as they ran, a forward 1, a backward through it 2. Seconds: of sampling a clip."
)
#: What an average is never printed without.
GUARDS = ("distribution", "diversity")
#: What a plan costs before anything is trained, lower is better: Eq 4 for the whole set of what goes.
REMOVAL = "error of x0, untrained"
#: Columns of the paper that need a model which cannot be had.
PROPRIETARY = ("lip sync",)


def markdown(values: dict[str, Any]) -> str:
    found = {name for row in values["rows"].values() for name in row.get("scores", {})}
    names = [n for n in SCORES if n in found] + sorted(found - set(SCORES))
    absent = [n for n in PROPRIETARY if any(n in paper["columns"] for paper in values["paper_tables"].values())]
    columns = ["", "steps", "M", "iterations", "evaluations", "seconds", "speed-up", "average",
               f"less {values['reference']}'s"]  # fmt: skip
    removal = [REMOVAL] * any("removal" in row for row in values["rows"].values())
    columns += [*removal, *(n.replace("_", " ") for n in names), *absent]
    beside = beside_paper(values)
    lines = [f"## {values['title']}", "", *of_what(values), "", *head([*columns, *beside])]
    for label, row in values["rows"].items():
        if "average" in row:
            ahead = "" if label == values["reference"] or "ahead" not in row else signed(row["ahead"])
            cells = [
                str(row["steps"]),
                f"{row['parameters'] / 1e6:.2f}",
                row["iterations"],
                f"{row['block_evaluations']['mean'] / 1e3:.1f}",
            ]
            cells += [times(row), ratio(row.get("speed_up"))]
            cells += [pair(row["average"]), ahead, *(pair(row.get("removal")) for _ in removal)]
            cells += [pair(row["scores"].get(n)) for n in names] + ["n/a"] * len(absent)
        else:
            cells = [""] * 6 + [f"failed: {row['error']}"] + [""] * (1 + len(removal) + len(names) + len(absent))
        lines.append(line([label, *cells, *(of[label] for of in beside.values())]))
    lines += [*fewer(values), "", COLUMNS, *said_of_intervals(values)]
    if values.get("notes"):
        lines += ["", values["notes"]]
    for name, paper in values["paper_tables"].items():
        lines += ["", *as_printed(name, paper)]
    return "\n".join(lines) + "\n"


def of_what(values: dict[str, Any]) -> list[str]:
    """What averages are of, without which no two tables are compared."""
    if not values["averaged"]:
        return ["No run has ended yet."]
    names = ", ".join(name.replace("_", " ") for name in values["averaged"])
    seeds, commits = (", ".join(map(str, values[name])) for name in ("seeds", "runs_of"))
    of = f"Commits {commits}; seeds {seeds}, {values['clips']} clips a row and seed."
    return [f"{of} The average is that of {names}."]


def said_of_intervals(values: dict[str, Any]) -> list[str]:
    """How rows are compared, where their clips were kept."""
    found = [row["ahead"] for row in values["rows"].values() if "half" in row.get("ahead", {})]
    if not found:
        return []
    clips, seeds = (max(one[name] for one in found) for name in ("clips", "seeds"))
    of = f"the difference of averages and its {found[0]['level']:.0%} interval, paired clip by clip over seeds"
    text = (
        f"Less {values['reference']}'s: {of} (n = {clips} clips of {seeds} seeds). Each interval is of one comparison."
    )
    return ["", f"{text} Rows whose interval holds 0 are level: neither is the better one."]


def fewer(values: dict[str, Any]) -> list[str]:
    """A line for each row of which a seed failed."""
    lines = []
    for label, row in values["rows"].items():
        if "average" in row and "error" in row:
            lines += ["", f"{label}: of {row['average']['n']} of {len(values['seeds'])} seeds; {row['error']}"]
    return lines


def beside_paper(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The last columns, each row's cell by its label: our average over the dimensions of the paper's own, where a suite
    has them, and the paper's, of its model under its benchmark."""
    columns: dict[str, dict[str, str]] = {}
    for name, paper in list(values["paper_tables"].items())[:1]:
        rows = values["rows"]
        if any("as_paper" in row for row in rows.values()):
            said = {label: pair(row["as_paper"]) if "as_paper" in row else "" for label, row in rows.items()}
            columns[over(name)] = said
        columns[f"paper: average ({paper['of']})"] = {
            label: number(values["paper"].get(label, {}).get("average")) for label in rows
        }
    return columns


def over(name: str) -> str:
    """The column of our average over the dimensions of a paper's table."""
    return f"average over {title(name)}'s dimensions"


def as_printed(name: str, paper: Mapping[str, Any]) -> list[str]:
    """A table of the paper under ours."""
    lines = [f"The paper's {title(name)} ({paper['of']}), as printed:", "", *head(["", *paper["columns"]])]
    lines += [line([key, *map(number, row)]) for key, row in paper["rows"].items()]
    return lines + (["", paper["notes"]] if "notes" in paper else [])


def guarded(row: dict[str, Any]) -> list[str]:
    """Cells of a row's average and its guards; n/a where a suite has none."""
    return [pair(row["average"]), *(pair(row["scores"].get(n)) for n in GUARDS)]


def head(columns: list[str]) -> list[str]:
    return [line(columns), "|" + "---|" * len(columns)]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(v: float | None) -> str:
    return "" if v is None else f"{v:.1f}" if v >= 10 else f"{v:.3f}"


def times(row: dict[str, Any]) -> str:
    return f"{row['seconds']['mean']:.3f}" if "seconds" in row else "n/a"


def ratio(v: dict[str, float] | None) -> str:
    return "n/a" if v is None else f"{with_spread(v, '.1f')}×"


def pair(v: dict[str, float] | None) -> str:
    return "n/a" if v is None else with_spread(v, ".3f")


def signed(v: dict[str, Any] | None) -> str:
    """A difference with its interval, or with its spread over seeds."""
    if v is None:
        return "n/a"
    if "half" not in v:
        return with_spread(v, ".3f", sign="+")
    half = "unknown" if v["half"] is None else f"{v['half']:.3f}"
    return f"{v['mean']:+.3f} ± {half}" + ", level" * (not v["ranked"])


def with_spread(v: dict[str, float], form: str, sign: str = "") -> str:
    """One value alone has no spread."""
    return f"{v['mean']:{sign}{form}}" + (f" ± {v['spread']:{form}}" if v["n"] > 1 else "")


def lowest_shown(values: Sequence[float]) -> float:
    """Where an axis may begin: at the least value, or above the few (a third at most) that lie further from the others
    than twice what these span, and would have them in one place."""
    ordered = sorted(values)
    for k in range(1, len(ordered) // 3 + 1):
        if ordered[k] - ordered[k - 1] > 2 * (ordered[-1] - ordered[k]):
            return ordered[k]
    return ordered[0] if ordered else 0.0


def picture(values: dict[str, Any], path: Path) -> None:
    """Averages as points with their spread, those far below the others as numbers at the edge; the paper's own numbers
    are not drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {label: r["average"] for label, r in values["rows"].items() if "average" in r}
    figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(rows) + 1.2))
    least = lowest_shown([r["mean"] for r in rows.values()])
    for place, row in enumerate(rows.values()):
        if row["mean"] >= least:
            axes.errorbar(row["mean"], place, xerr=row["spread"], fmt="o", color="tab:blue")
        else:
            axes.annotate(f"← {row['mean']:.3f}", (0.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)  # where all failed, too
    axes.set_xlabel("average (mean ± spread over seeds)")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
