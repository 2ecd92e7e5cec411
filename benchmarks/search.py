"""Each method's own learning rate, from a small search: thrice less, as preset, thrice more; one seed of its own.

    python -m benchmarks.search [--scale tiny] [--jobs 2] [--list]

The seed is none of the tables'. The best average goes, by hand, into the scale's `algorithms`; a fake network and a
head keep their ratio to the generator.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.cells import Cell, Runs, Scale
from benchmarks.common import write
from benchmarks.table import arguments, scale_of
from benchmarks.table2 import TABLE

SEED = 100
FACTORS = (1 / 3, 1.0, 3.0)
COUPLED = ("lr", "fake_lr", "gan_lr", "matrices", "fake_matrices")


def variants(cell: Cell, scale: Scale) -> list[Cell]:
    """The cell at each rate; recoveries of methods that do not distil are searched instead of their distiller."""
    recipe = cell.at(scale, SEED)
    kind = "distiller" if recipe.distiller.name != "euler" else "recovery"
    options = getattr(recipe, kind).options
    coupled = {name: options[name] for name in COUPLED if options.get(name)}
    if not coupled:
        return []
    name = getattr(recipe, kind).name

    def at(factor: float) -> Cell:
        rates = {k: float(f"{v * factor:.3g}") for k, v in coupled.items()}
        return Cell(f"{cell.label}, lr {rates['lr']:g}", {**cell.values, kind: {"name": name, **rates}})

    return [at(factor) for factor in FACTORS]


def main() -> int:
    args = arguments(__doc__)
    runs = Runs(args.runs, scale_of(args), args.jobs)
    found = {cell.label: variants(cell, runs.scale) for cell in TABLE.rows}
    cells = [c for group in found.values() for c in group]
    if args.list:
        for cell, seed in runs.missing(cells, [SEED]):
            print(f"{cell.label}, seed {seed}")
        return 0
    runs.run(cells, [SEED])
    rows: dict[str, Any] = {c.label: runs.row(c, SEED) for c in cells}
    best = {
        label: max(group, key=lambda c: rows[c.label].get("average", 0.0)).label
        for label, group in found.items()
        if group
    }
    averages = {label: row.get("average", row.get("error")) for label, row in rows.items()}
    write(
        "search",
        f"python -m benchmarks.search --scale {args.scale}",
        {"seed": SEED, "averages": averages, "best": best},
    )
    for label, value in averages.items():
        print(f"{label:40} {value if isinstance(value, str) else format(value, '.4f')}")
    print("\n".join(best.values()))
    return int(any("error" in row for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
