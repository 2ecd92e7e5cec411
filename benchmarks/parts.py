"""What each part contributes: the pruner against controls at one budget, how it searches, recovery, the distiller.

    python -m benchmarks.parts [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Not a table of the paper (`table10` in the results): it says whether its choices matter here. Rows without recovery
distil for as many iterations as the others train in both stages. The random pruner draws another lot for each seed, so
that its spread is of lots, too. The last rows are other distillers as stage III of the flagship's pruned and recovered
network, methods at one number of parameters: Table 2's strongest rivals, and one beyond the paper.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks.cells import Cell
from benchmarks.table import Table, main

#: The embedded model's preset scores greedily, after a short recovery and at the student's times; then without the one
#: and the other, and as the paper does.
ELBO: dict[str, dict[str, Any]] = {
    "elbo": {},
    "elbo, before any recovery": {"after": 0},
    "elbo, before any recovery, whole path": {"after": 0, "times": "path"},
    "elbo, ranked once": {"search": "ranking", "after": 0, "times": "path"},
}
#: At full size presets score as the paper does; two fifths of stage II come first in the other one, as in the preset.
FULL_ELBO: dict[str, dict[str, Any]] = {
    "elbo": {"search": "greedy"},
    "elbo, after a short recovery": {"search": "greedy", "after": 1600, "times": "student"},
    "elbo, ranked once": {},
}
PRUNERS = ("uniform", "magnitude", "shortgpt", "taylor", "f3", "icmd")
OTHERS = (
    *(Cell(name, {"pruner": name}) for name in PRUNERS),
    Cell("random", {"pruner": "random"}, seeded="pruner"),
    Cell("elbo, plain recovery", {"recovery": "sft"}),
    Cell("elbo, no recovery", {"recovery": "none"}, all_in="distill"),
    Cell("width", {"pruner": "width"}),
    Cell("width to half, then blocks", {"pruner": {"name": "width", "least": 0.5}}),
)


def rows(scale: str) -> tuple[Cell, ...]:
    elbo = ELBO if scale == "tiny" else FULL_ELBO
    searched = (Cell(name, {"pruner": {"name": "elbo", **options}}) for name, options in elbo.items())
    return (*searched, *OTHERS, *(DRAWS if scale == "tiny" else FULL_DRAWS), REAL, *RIVALS)


#: What stage II draws: the embedded model's preset each block, at p .9; at full size whole sets, at p .5.
DRAWS = (
    Cell("elbo, whole sets drawn at p .5", {"recovery": {"name": "bernoulli", "draw": "set", "p": 0.5}}),
    Cell("elbo, whole sets drawn at p .9", {"recovery": {"name": "bernoulli", "draw": "set", "p": 0.9}}),
)
FULL_DRAWS = (
    Cell("elbo, each block drawn at p .5", {"recovery": {"name": "bernoulli", "draw": "block", "p": 0.5}}),
    Cell("elbo, whole sets drawn at p .9", {"recovery": {"name": "bernoulli", "draw": "set", "p": 0.9}}),
)
REAL = Cell("elbo, recovered network on Eq 9's real side", {"distill": {"real": "recovered"}})
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
    "elbo scores greedily, at the student's times, after the first 120 iterations of stage II, in which random blocks"
    " are away, unless it says otherwise; with a recovery that does not train so, or none, it scores the model as it"
    " is, as the row before any recovery. Blocks are scored on 288 samples by elbo, on 96 by shortgpt, taylor and icmd,"
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
        rows(scale),
        {},
        reference="elbo" if tiny else "elbo, ranked once",
        notes=NOTES + (TINY if tiny else FULL),
        removal=True,
        module="parts",
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
