"""What the figures share: the command, matplotlib without a screen, one style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.common import RESULTS, write
from benchmarks.render import over
from benchmarks.runner import Runs
from benchmarks.table import arguments, plan, runs_of


def axes(width: float = 7.0, height: float = 4.2, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), squeeze=False)


def comparable(points: Sequence[Mapping[str, Any]], name: str) -> tuple[str, str]:
    """Which average is drawn, and what it is called: over the dimensions of the paper's `name` where all have those."""
    return ("as_paper", over(name)) if points and all("as_paper" in p for p in points) else ("average", "average")


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(
    name: str,
    description: str | None,
    made: list[Cell] | Callable[[str], list[Cell]],
    measure: Callable[[Runs, list[int]], dict[str, Any]],
    draw: Callable[[dict[str, Any], Runs, Path], None],
    markdown: Callable[[dict[str, Any]], list[str]],
    whole: bool = False,
) -> int:
    """Run what is missing of the cells, or of those made for the scale, write `results/NAME.json`, `.md` (the numbers
    drawn) and `.png`. 1 when a cell failed. `whole`: the figure shows clips, of the first seed alone."""
    args = arguments(description)
    args.seeds = args.seeds[:1] if whole else args.seeds
    runs = runs_of(args)
    cells = made if isinstance(made, list) else made(args.scale)
    if args.list or args.dry_run:
        return plan(runs, cells, args)
    runs.run(cells, args.seeds, whole)
    rows = {f"{c.label}, seed {s}": runs.row(c, s, whole) for c in cells for s in args.seeds}
    errors = {label: row["error"] for label, row in rows.items() if "error" in row}
    for label, error in errors.items():
        print(f"{label} failed: {error}")
    if len(errors) == len(cells) * len(args.seeds):
        return 1  # nothing to draw
    name = name if args.scale == "tiny" else f"{name}_{args.scale}"
    about = {"scale": args.scale, "seeds": args.seeds, "runs_of": runs.commits(cells, args.seeds)}
    values = about | measure(runs, args.seeds) | ({"errors": errors} if errors else {})
    write(name, f"python -m benchmarks.{name.partition('_')[0]} --scale {args.scale}", values)
    title = (description or "").split("\n")[0]
    said = [f"{label} failed: {error}" for label, error in errors.items()]
    (RESULTS / f"{name}.md").write_text("\n".join([f"## {title}", "", *markdown(values), "", *said]).strip() + "\n")
    draw(values, runs, RESULTS / f"{name}.png")
    return int(bool(errors))
