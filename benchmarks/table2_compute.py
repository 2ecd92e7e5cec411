"""Table 2 again, at equal compute: every row that trains has about the block evaluations of DMD2's in Table 2.

    python -m benchmarks.table2_compute [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

The others are trained for longer, by factors that make the evaluations equal which trainings count as they run (the
column says them; `tests/comparison/test_compute.py` holds the factors). What a pruner looks at counts too. Rows that
train nothing, and DMD2's, are those of Table 2.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.cells import Cell, Scale
from benchmarks.table import Table, main
from benchmarks.table2 import FULL, INTERVALS, NOTES, OTHERS, OURS, PAPER, TINY

#: How many times the scale's iterations of stages II and III a row has.
TIMES = {"lcm": 2.382, "magic": 1.034, "icmd": 1.093, OURS.label: 2.25, INTERVALS.label: 2.35}
FULL_TIMES = {"lcm": 1.635, "magic": 0.961, "icmd": 0.9, OURS.label: 2.16, INTERVALS.label: 2.16}
COMPUTE = (
    "One trainer and batch; each method is trained for as many iterations as make its block evaluations dmd2's of"
    " Table 2, within a few per cent. Rates are those that were found for Table 2's numbers of iterations: none was"
    " searched for again. "
)


def longer(cell: Cell, scale: str) -> Cell:
    times = (TIMES if scale == "tiny" else FULL_TIMES).get(cell.label, 1.0)
    if times == 1.0:
        return cell
    base, values = Scale(scale).base(), dict(cell.values)
    for stage in ("recover", "distill"):
        iterations = {"iterations": round(times * base[stage]["iterations"])}
        values[stage] = values.get(stage, {}) | iterations
    return replace(cell, values=values)


def table(scale: str) -> Table:
    return Table(
        2,
        "Methods at equal compute (Table 2)",
        tuple(longer(cell, scale) for cell in (*OTHERS, OURS, INTERVALS)),
        PAPER,
        reference=OURS.label,
        papers=("table2",),
        notes=COMPUTE + NOTES + (TINY if scale == "tiny" else FULL),
        module="table2_compute",
        variant="_compute",
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
