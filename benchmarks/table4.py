"""The distillation weight alpha of stage II, judged after recovery at 28 guided steps (the paper's Table 4).

python -m benchmarks.table4 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import GUIDED, Table, main

ALPHAS = (0.0, 0.3, 0.5, 0.7, 1.0)


def cell(alpha: float) -> Cell:
    recovery = {"name": "bernoulli", "alpha": alpha}
    return Cell(f"alpha {alpha:g}", {"recovery": recovery, "recover": GUIDED, "distiller": "euler", "steps": 28})


NOTES = (
    "Eq 6's target is the frozen incoming network (`anchor`, the default here at every size); the paper's is the"
    " trained network itself with all its blocks. A tenth of the texts is dropped in stage II, for guided sampling."
)
TINY = " A removable block is skipped with p .9 (the paper's: .5)."


def table(scale: str) -> Table:
    return Table(
        4,
        "Distillation weight of stage II (Table 4)",
        tuple(map(cell, ALPHAS)),
        {"teacher": "teacher"} | {f"alpha {a:g}": f"{a:.1f}" for a in ALPHAS},
        papers=("table4",),
        notes=NOTES + TINY * (scale == "tiny"),
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
