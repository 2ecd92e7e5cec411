"""Each method's own learning rate, from a small search: thrice less, as preset, thrice more, and while the best of
them is at an end one rate beyond it; then, with the best, its teacher guided. One seed of its own.

    python -m benchmarks.search [--scale tiny] [--jobs 2] [--list]

The seed is none of the tables', whatever --seeds says. The best averages go, by hand, into the scale's `algorithms`
(rates) and the rows of tables (guidance); a fake network and a head keep their ratio to the generator.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.cells import Cell, Scale
from benchmarks.common import write
from benchmarks.parts import CODMD
from benchmarks.runner import Runs
from benchmarks.table import GUIDED, arguments, plan, runs_of
from benchmarks.table2 import table
from flc.registry import create
from flc.run.compress import completed

SEED = 100
FACTORS = (1 / 3, 1.0, 3.0)
COUPLED = ("lr", "fake_lr", "gan_lr", "matrices", "fake_matrices")
#: The embedded model's own guidance, standard form, and what teachers call theirs.
GUIDANCE, STRENGTHS = 2.0, ("scale", "beta1")


def searched(cell: Cell, scale: Scale) -> tuple[str, str, dict[str, float]] | None:
    """Kind and name of the algorithm whose rates are searched, and the preset's: what a scale says of them already is
    what an earlier search found. Recoveries of methods that do not distil are searched instead of their distiller."""
    recipe = completed(cell.resolved(scale, SEED))
    kind = "distiller" if recipe.distiller.name != "euler" else "recovery"
    choice = getattr(recipe, kind)
    coupled = {name: choice.options[name] for name in COUPLED if choice.options.get(name)}
    return (kind, choice.name, coupled) if coupled else None


def algorithms(scale: Scale) -> list[Cell]:
    """The first row of table 2 for each algorithm that has rates, and `CODMD`; teachers are as presets have them."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in (*table(scale.name).rows, CODMD):
        if found := searched(cell, scale):
            teacher = cell.values.get("teacher")
            plain = {"teacher": teacher["name"]} if isinstance(teacher, dict) else {}
            first.setdefault(found[:2], replace(cell, values={**cell.values, **plain}))
    return list(first.values())


def variant(cell: Cell, scale: Scale, factor: float) -> Cell:
    """The cell with all its rates times `factor`."""
    found = searched(cell, scale)
    assert found is not None
    kind, name, coupled = found
    rates = {k: float(f"{v * factor:.3g}") for k, v in coupled.items()}
    return replace(
        cell, label=f"{cell.label}, lr {rates['lr']:g}", values={**cell.values, kind: {"name": name, **rates}}
    )


def guided(cell: Cell, scale: Scale) -> Cell | None:
    """The cell with its teacher guided; None where it distils nothing, or the preset guides it already."""
    recipe = completed(cell.resolved(scale, SEED))
    options = [name for name in STRENGTHS if recipe.teacher.options.get(name) == 1.0]
    if recipe.distiller.name == "euler" or not options:
        return None
    values = {**cell.values, "teacher": {"name": recipe.teacher.name, options[0]: GUIDANCE}}
    if create("recovery", recipe.recovery.name, {}).trains:  # the teacher asks what it leaves for the empty prompt
        values["recover"] = {**values.get("recover", {}), **GUIDED}
    return replace(cell, label=f"{cell.label}, guided {GUIDANCE:g}", values=values)


def beyond(averages: dict[float, float]) -> float | None:
    """The factor to try next, while the best of those tried is at an end; of a method that fails, none."""
    best = max(averages, key=averages.__getitem__)
    if not averages[best]:
        return None
    return {min(averages): best / 3, max(averages): best * 3}.get(best)


def bracketed(runs: Runs, cells: list[Cell]) -> dict[str, dict[float, Cell]]:
    """Each method's runs by factor, made until its best lies between two others; a failed one counts 0."""
    found = {c.label: {f: variant(c, runs.scale, f) for f in FACTORS} for c in cells}
    while True:
        runs.run([c for group in found.values() for c in group.values()], [SEED])
        tried = {label: {f: average(runs, c) for f, c in group.items()} for label, group in found.items()}
        more = {label: f for label, averages in tried.items() if (f := beyond(averages)) is not None}
        if not more:
            return found
        for c in cells:
            if c.label in more:
                found[c.label][more[c.label]] = variant(c, runs.scale, more[c.label])


def main() -> int:
    args = arguments(__doc__)
    runs = runs_of(args)
    methods = algorithms(runs.scale)
    args.seeds = [SEED]
    if args.list or args.dry_run:
        return plan(runs, [variant(c, runs.scale, f) for c in methods for f in FACTORS], args)
    found = {label: list(group.values()) for label, group in bracketed(runs, methods).items()}
    for group in found.values():
        more = guided(max(group, key=lambda c: average(runs, c)), runs.scale)
        group += [more] if more else []
    runs.run([c for group in found.values() for c in group], [SEED])
    rows = {c.label: runs.row(c, SEED) for group in found.values() for c in group}
    best = {label: max(group, key=lambda c: average(runs, c)).label for label, group in found.items()}
    kept = ("average", "scores")
    said = {label: row.get("error") or {k: row[k] for k in kept} for label, row in rows.items()}
    command = f"python -m benchmarks.search --scale {args.scale}"
    about = {"seed": SEED, "runs_of": runs.commits([c for group in found.values() for c in group], [SEED])}
    name = "search" if args.scale == "tiny" else f"search_{args.scale}"
    write(name, command, about | {"rows": said, "best": best})
    for label, row in rows.items():
        print(f"{label:40} {row.get('error') or format(row['average'], '.4f')}")
    print("\n".join(best.values()))
    return int(any("error" in row for row in rows.values()))


def average(runs: Runs, cell: Cell) -> float:
    """Of a finished run; 0 of a failed one."""
    return float(runs.row(cell, SEED).get("average", 0.0))


if __name__ == "__main__":
    sys.exit(main())
