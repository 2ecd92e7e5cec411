"""The flagship trained otherwise: for longer, with averages of its weights, and, at scale tiny, with other rates.

    python -m benchmarks.further [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

Not a table of the paper (`table11` in the results), and none that `benchmarks.all` makes unless it is asked for: it
says what is behind choices that all tables stand on.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell, Scale
from benchmarks.table import Table, main
from benchmarks.table2 import OURS

#: The best rates that the search found for it; all tables have those of an earlier one.
SEARCHED = Cell(
    "fastlightgen, lr 0.0003",
    {"distiller": {"name": "dmd", "lr": 0.0003, "fake_lr": 0.001, "matrices": 0.02, "fake_matrices": 0.03}},
)
#: Over about the last hundred and twenty iterations.
AVERAGED = Cell(
    "fastlightgen, averages handed on",
    {"recovery": {"name": "bernoulli", "ema": 0.99}, "distiller": {"name": "dmd", "ema": 0.95}},
)
#: At full size an algorithm's own averages are handed on.
BARE = Cell(
    "fastlightgen, no averages",
    {"recovery": {"name": "bernoulli", "ema": 0.0}, "distiller": {"name": "dmd", "ema": 0.0}},
)


def twice(scale: str) -> Cell:
    """At tiny in about the time of Table 2's rows without a pruner: a smaller network's iterations are shorter."""
    base = Scale(scale).base()
    longer = {stage: {"iterations": 2 * base[stage]["iterations"]} for stage in ("recover", "distill")}
    return Cell("fastlightgen, twice as long", longer)


def table(scale: str) -> Table:
    tiny = scale == "tiny"
    return Table(
        11,
        "The flagship trained otherwise",
        (OURS, twice(scale), *((SEARCHED, AVERAGED) if tiny else (BARE,))),
        {},
        reference=OURS.label,
        notes="Everything that a row does not name is the first one's."
        + " Rates fall to zero over the last half of a training; lr 0.0003 is the present search's best." * tiny,
        module="further",
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
