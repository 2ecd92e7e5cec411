"""Every table and figure, cell by cell, stages I and II shared; what is to run, and about how long, is said first.

python -m benchmarks.all [--scale tiny] [--only table2] [--seeds 0 1 2] [--jobs 2] [--list]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.cells import Cell, Runs, Scale

TABLES = ("table2", "table4", "table5", "table6", "table9", "parts")
#: Table 1 and 3 and all figures but the first are of runs that tables make.
EVERY = (*TABLES, "table1", "table3", "fig1", "fig2", "fig4", "fig7")
WHOLE = {"table1", "table3", "fig7"}
"""Those that run weights or show clips, which are not kept in `results/`."""
MINUTES = 4.0  # a cell of the embedded model on one core, stages shared; an estimate


def cells_of(name: str) -> list[Cell]:
    """The runs that a table or figure stands on."""
    module = import_module(f"benchmarks.{name}")
    return module.TABLE.cells if name in TABLES else module.CELLS


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--only", choices=EVERY, nargs="*", default=list(EVERY))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    runs = Runs(args.runs, Scale(args.scale), args.jobs)
    asked = {
        whole: [c for name in args.only if (name in WHOLE) == whole for c in cells_of(name)] for whole in (True, False)
    }
    missing = runs.missing(asked[True], args.seeds, whole=True)
    there = {runs.path(*pair) for pair in missing}
    missing += [pair for pair in runs.missing(asked[False], args.seeds) if runs.path(*pair) not in there]
    for cell, seed in missing:
        print(f"{cell.label}, seed {seed}")
    print(f"{len(missing)} runs, about {len(missing) * MINUTES / args.jobs / 60:.1f} hours with {args.jobs} at a time")
    if args.list:
        return 0
    shared = ["--scale", args.scale, "--runs", str(args.runs), "--jobs", str(args.jobs)]
    shared += ["--seeds", *map(str, args.seeds)]
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *shared]).returncode for name in args.only]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
