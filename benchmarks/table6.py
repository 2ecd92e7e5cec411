"""With and without stage III, at three pruning ratios (the paper's Tables 6 and 7).

python -m benchmarks.table6 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import GUIDED, WHOLE, Table, main

KEEPS = (0.7, 0.5, 0.3)


def pair(keep: float) -> tuple[Cell, Cell]:
    gone = f"{1 - keep:.0%}"
    return (
        Cell(f"28 steps, {gone} removed", {"keep": keep, "recover": GUIDED, "distiller": "euler", "steps": 28}),
        Cell(f"4 steps, {gone} removed", {"keep": keep}),
    )


NOTES = (
    "Rows at 28 steps have the model's own guidance, a tenth of the texts dropped in stage II for it, and stop there."
    " The row of 0 % has no stage II and its iterations in stage III."
)
#: Row labels to those of each of the paper's tables.
PAPERS = {
    "table6": {f"{n} steps, {1 - k:.0%} removed": f"{n}, {1 - k:.0%}" for k in KEEPS for n in (28, 4)},
    "table7": {f"4 steps, {1 - k:.0%} removed": f"{1 - k:.0%}" for k in (1.0, *KEEPS)},
}


def papers(scale: str) -> tuple[str, ...]:
    """The paper's tables of pruning ratios, the one whose rows stand beside ours first."""
    return ("table7", "table6") if scale.startswith("hunyuan") else ("table6", "table7")


def table(scale: str) -> Table:
    first = papers(scale)[0]
    return Table(
        6,
        "Stage III and the pruning ratio (Tables 6 and 7)",
        (
            Cell("4 steps, 0% removed", WHOLE, all_in="distill"),
            *(cell for keep in KEEPS for cell in pair(keep)),
        ),
        PAPERS[first],
        papers=papers(scale),
        removal=True,
        notes=NOTES + " Table 7's rows stand beside ours of 4 steps." * (first == "table7"),
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
