"""What each part contributes: the pruner against controls at one budget, greedy ranking, recovery, the distiller.

    python -m benchmarks.parts [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Not a table of the paper (`table10` in the results): it says whether its choices matter here. Rows without recovery
distil for as many iterations as the others train in both stages. The random pruner draws another lot for each seed, so
that its spread is of lots, too. The last rows are other distillers as stage III of the flagship's pruned and recovered
network, methods at one number of parameters: Table 2's strongest rivals, and one beyond the paper.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.cells import Cell
from benchmarks.table import Table, main

#: The embedded model's preset ranks greedily; the paper once.
ELBO = {"elbo": "greedy", "elbo, ranked once": "ranking"}
PRUNERS = ("uniform", "magnitude", "shortgpt", "taylor", "f3", "icmd")
ROWS = (
    *(Cell(name, {"pruner": {"name": "elbo", "search": search}}) for name, search in ELBO.items()),
    *(Cell(name, {"pruner": name}) for name in PRUNERS),
    Cell("random", {"pruner": "random"}, seeded="pruner"),
    Cell("elbo, plain recovery", {"recovery": "sft"}),
    Cell("elbo, no recovery", {"recovery": "none"}, all_in="distill"),
    Cell("width", {"pruner": "width"}),
    Cell("width to half, then blocks", {"pruner": {"name": "width", "least": 0.5}}),
)


CODMD = Cell("codmd on fastlightgen", {"distiller": "codmd"})
#: With rates and teachers as in Table 2.
RIVALS = (
    Cell("elbo, then dmd2", {"distiller": "dmd2", "teacher": "cfg"}),
    Cell("elbo, then lcm", {"distiller": "lcm", "teacher": "cfg"}),
    replace(CODMD, label="elbo, then codmd"),
)


NOTES = (
    "Rows without recovery distil for the iterations of both stages. random draws another lot for each seed: its spread"
    " is of lots, too. Stage III is fastlightgen's, with its rates, in every row but the last three: dmd2's and lcm's"
    " are those of Table 2's unpruned rows, with their teachers. sft's rates are bernoulli's: none was searched for. "
)
TINY = (
    "elbo ranks greedily unless it says otherwise. Blocks are scored on 96 samples by elbo, shortgpt, taylor and icmd,"
    " on 64 by f3 and width; uniform, magnitude and random look at none."
)
FULL = (
    "elbo without recovery, with the plain one, or before another distiller ranks once, as the paper does. Blocks are"
    " scored on 256 samples by elbo, shortgpt, taylor and icmd, on 64 by f3 and width; uniform, magnitude and random"
    " look at none."
)


def table(scale: str) -> Table:
    """Differences are to the flagship's own pruner and recovery."""
    tiny = scale == "tiny"
    return Table(
        10,
        "Pruner, recovery and distiller",
        (*ROWS, *RIVALS),
        {},
        reference="elbo" if tiny else "elbo, ranked once",
        notes=NOTES + (TINY if tiny else FULL),
        removal=True,
        module="parts",
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
