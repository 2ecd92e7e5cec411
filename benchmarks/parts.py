"""What each part contributes: the pruner against controls at one budget, recovery on or off, greedy ranking.

    python -m benchmarks.parts [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Not a table of the paper (`table10` in the results): it says whether its choices matter here. Rows
without recovery distil for as many iterations as the others train in both stages. The random pruner draws
another lot for each seed, so that its spread is of lots, too.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import Table, main

#: The embedded model's preset ranks greedily; the paper once.
ELBO = {"elbo": True, "elbo, ranked once": False}
PRUNERS = ("uniform", "magnitude", "shortgpt", "taylor", "f3", "icmd")
TABLE = Table(
    10,
    "Pruner and recovery",
    (
        *(Cell(name, {"pruner": {"name": "elbo", "greedy": greedy}}) for name, greedy in ELBO.items()),
        *(Cell(name, {"pruner": name}) for name in PRUNERS),
        Cell("random", {"pruner": "random"}, seeded="pruner"),
        Cell("elbo, plain recovery", {"recovery": "sft"}),
        Cell("elbo, no recovery", {"recovery": "none"}, all_in="distill"),
        Cell("f3, no recovery", {"pruner": "f3", "recovery": "none"}, all_in="distill"),
        Cell("width", {"pruner": "width"}),
        Cell("width to half, then blocks", {"pruner": {"name": "width", "least": 0.5}}),
    ),
    {},
    reference="elbo",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
