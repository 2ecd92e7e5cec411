"""The teacher's category: real and fake side pruned or unpruned, and well-guided (the paper's Table 9).

    python -m benchmarks.table9 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

The paper's two rows change both sides at once; the mixed cells show which side does it.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import Table, main


def cell(real: str, fake: str) -> Cell:
    return Cell(
        f"real {real}, fake {fake}",
        {"teacher": {"pruned": "weak", "unpruned": "strong"}[real], "distiller": {"name": "dmd", "fake_init": fake}},
    )


ROWS = (
    *(cell(real, fake) for real in ("pruned", "unpruned") for fake in ("pruned", "unpruned")),
    Cell("well-guided"),
)
#: The preset's own at full size.
PAPERS_BETA2 = Cell("well-guided, beta2 0.25", {"teacher": {"name": "well-guided", "beta2": 0.25}})
NOTES = "The paper's two rows change both sides at once."
TINY = " well-guided is the preset's, beta1 1 and beta2 1: nearly the unpruned real side under the pruned fake."


def table(scale: str) -> Table:
    tiny = scale == "tiny"
    return Table(
        9,
        "Teacher category (Table 9)",
        (*ROWS, PAPERS_BETA2) if tiny else ROWS,
        {f"real {side}, fake {side}": side for side in ("pruned", "unpruned")},
        papers=("table9",),
        notes=NOTES + TINY * tiny,
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
