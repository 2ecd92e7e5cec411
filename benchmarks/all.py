"""Every table and figure, cell by cell, stages I and II shared; what is to run, and about how long, is said first.

    python -m benchmarks.all [--scale tiny] [--only table2] [--seeds 0 1 2] [--jobs 2] [--list] [--dry-run]

Where weights and clips are, and how processes start, is said as of one table: --model, --data, --set, --launch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

from benchmarks.cells import Cell
from benchmarks.table import add_arguments, plan, runs_of

TABLES = ("table2", "table4", "table5", "table6", "table9", "parts")
#: Table 1 and 3 and all figures but the first are of runs that tables make.
EVERY = (*TABLES, "table1", "table3", "fig1", "fig2", "fig4", "fig7")
WHOLE = {"table1", "table3", "fig7"}
"""Those that run weights or show clips, which are not kept in `results/`."""
MINUTES = 4.5  # a cell of the embedded model on one core, with the stages it shares: by those of the search
PASSED_ON = ("scale", "runs", "jobs", "model", "data", "launch")


def cells_of(name: str, scale: str) -> list[Cell]:
    """The runs that a table or figure stands on."""
    module = import_module(f"benchmarks.{name}")
    if name in TABLES:
        return (module.table(scale) if hasattr(module, "table") else module.TABLE).cells
    return module.cells(scale) if hasattr(module, "cells") else module.CELLS


def passed_on(args: argparse.Namespace) -> list[str]:
    """The arguments of each table's own command."""
    given = [f"--{name}={value}" for name in PASSED_ON if (value := getattr(args, name))]
    given += ["--commit"] if args.commit else []
    return [*given, "--seeds", *map(str, args.seeds), *(["--set", *args.set] if args.set else [])]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=EVERY, nargs="*", default=list(EVERY))
    add_arguments(parser)
    args = parser.parse_args()
    runs = runs_of(args)
    asked = {
        whole: [c for name in args.only if (name in WHOLE) == whole for c in cells_of(name, args.scale)]
        for whole in (True, False)
    }
    if args.dry_run:
        return plan(runs, asked[True] + asked[False], args)
    missing = runs.missing(asked[True], args.seeds, whole=True)
    there = {runs.path(*pair) for pair in missing}
    missing += [pair for pair in runs.missing(asked[False], args.seeds) if runs.path(*pair) not in there]
    for cell, seed in missing:
        print(f"{cell.label}, seed {seed}")
    print(f"{len(missing)} runs" + how_long(len(missing), runs.jobs) * (args.scale == "tiny"))
    if args.list:
        return 0
    commands = [[sys.executable, "-m", f"benchmarks.{name}", *passed_on(args)] for name in args.only]
    return int(any([subprocess.run(command).returncode for command in commands]))


def how_long(runs: int, jobs: int) -> str:
    return f", about {runs * MINUTES / jobs / 60:.1f} hours with {jobs} at a time"


if __name__ == "__main__":
    sys.exit(main())
