"""Guidance by the text and by the removed blocks, beta1 and beta2 (the paper's Tables 5 and 8).

    python -m benchmarks.table5 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

The paper's best beta1 (3.5) is below its model's own guidance (5 for Wan), and so is the embedded model's (1, which is
none, of 2): rows stand beside the paper's in that order, not at equal numbers. Table 8 is the same sweep on
HunyuanVideo: its numbers are in `paper.yaml`.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import Table, main

#: (ours, the paper's WanX row)
ROWS = (
    ((1.0, 0.0), "3.5, 0.00"),
    ((1.0, 0.25), "3.5, 0.25"),
    ((1.0, 0.5), "3.5, 0.50"),
    ((1.0, 0.75), "3.5, 0.75"),
    ((1.0, 1.0), "3.5, 1.00"),
    ((0.75, 0.25), "1.5, 0.25"),
    ((0.9, 0.25), "2.5, 0.25"),
    ((1.25, 0.25), "4.5, 0.25"),
    ((2.0, 0.25), None),
)


def label(betas: tuple[float, float]) -> str:
    return f"beta1 {betas[0]:g}, beta2 {betas[1]:g}"


def cell(betas: tuple[float, float]) -> Cell:
    return Cell(label(betas), {"teacher": {"name": "well-guided", "beta1": betas[0], "beta2": betas[1]}})


TABLE = Table(
    5,
    "Guidance of the teacher (Tables 5 and 8)",
    tuple(cell(betas) for betas, _ in ROWS),
    {label(betas): key for betas, key in ROWS if key},
    papers=("table5", "table8"),
    notes="The paper's best beta1 is below its model's own guidance (3.5 of 5), and so is the embedded model's (1,"
    " which is none, of 2): rows stand beside the paper's in that order, not at equal numbers.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
