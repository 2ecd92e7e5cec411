"""Every table and figure, cell by cell, stages I and II shared; what is to run, and about how long, is said first.

    python -m benchmarks.all [--scale tiny] [--only table2] [--seeds 0 1 2] [--jobs 2] [--list] [--dry-run]

What is finished is in `results/runs.jsonl`, so that another sitting goes on from there. Where weights and clips are,
and how processes start, is said as of one table: --model, --data, --set, --launch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.cells import Cell
from benchmarks.runner import Runs
from benchmarks.table import Table, add_arguments, plan, runs_of

TABLES = ("table2", "table2_compute", "table4", "table5", "table6", "table9", "parts", "further")
#: Table 1 and 3 and all figures but the first are of runs that tables make.
EVERY = (*TABLES, "table1", "table3", "fig1", "fig2", "fig4", "fig7")
#: Made only where asked for.
ASKED = ("further",)
#: By the paper's numbers, and by our own.
ALSO_CALLED = {"table7": "table6", "table8": "table5", "table10": "parts", "table11": "further"}
WHOLE = {"table1", "table3", "fig7"}
"""Those that run weights or show clips, which are not kept in `results/`."""
FIRST = {"fig7"}
"""Those of the first seed alone."""
MINUTES = 4.3  # a cell of the embedded model on one core, with the stages it shares
PASSED_ON = ("scale", "runs", "jobs", "model", "data", "launch")


def cells_of(name: str, scale: str) -> list[Cell]:
    """The runs that a table or figure stands on."""
    module = import_module(f"benchmarks.{name}")
    if name in TABLES:
        table: Table = module.table(scale)
        return table.cells
    return module.cells(scale) if hasattr(module, "cells") else module.CELLS


def missing(runs: Runs, names: Sequence[str], seeds: list[int]) -> list[tuple[Cell, int]]:
    """What these tables and figures have still to run, each run once; first what must be run whole."""
    found: dict[Path, tuple[Cell, int]] = {}
    for name in sorted(names, key=lambda name: name not in WHOLE):
        own = seeds[:1] if name in FIRST else seeds
        for pair in runs.missing(cells_of(name, runs.scale.name), own, whole=name in WHOLE):
            found.setdefault(runs.path(*pair), pair)
    return list(found.values())


def passed_on(args: argparse.Namespace) -> list[str]:
    """The arguments of each table's own command."""
    given = [f"--{name}={value}" for name in PASSED_ON if (value := getattr(args, name))]
    return [*given, "--seeds", *map(str, args.seeds), *(["--set", *args.set] if args.set else [])]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only", choices=(*EVERY, *ALSO_CALLED), nargs="+", default=[name for name in EVERY if name not in ASKED]
    )
    add_arguments(parser)
    args = parser.parse_args()
    args.only = list(dict.fromkeys(ALSO_CALLED.get(name, name) for name in args.only))
    runs = runs_of(args)
    if args.dry_run:
        cells = (c for name in args.only for c in cells_of(name, args.scale))
        return plan(runs, list({runs.path(c, args.seeds[0]): c for c in cells}.values()), args)
    pending = missing(runs, args.only, args.seeds)
    for cell, seed in pending:
        print(f"{cell.label}, seed {seed}")
    print(f"{len(pending)} runs" + how_long(len(pending), runs.jobs) * (args.scale == "tiny"))
    if args.list:
        return 0
    commands = [[sys.executable, "-m", f"benchmarks.{name}", *passed_on(args)] for name in args.only]
    return int(any([subprocess.run(command).returncode for command in commands]))


def how_long(runs: int, jobs: int) -> str:
    return f", about {runs * MINUTES / jobs / 60:.1f} hours with {jobs} at a time"


if __name__ == "__main__":
    sys.exit(main())
