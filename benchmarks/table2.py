"""Methods side by side, at equal training iterations: metrics, average, cost, speed-up (the paper's Table 2).

    python -m benchmarks.table2 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

One trainer, one number of iterations, one metric suite. Iterations of methods do not cost the same: `table2_compute`
has the same rows at equal block evaluations. Rows that prune keep 70 % of the blocks; those that do not, all. Learning
rates are each method's best of `benchmarks.search` at scale tiny, and each algorithm's own at full size.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import GUIDED, WHOLE, Table, main

OURS = Cell("fastlightgen")
#: A control, with which the flagship is what its pruner makes of it.
INTERVALS = Cell("fastlightgen, blocks at equal intervals", {"pruner": "uniform"})


STOP = {"distiller": "euler", "steps": 28}
DMD2 = Cell("dmd2", {**WHOLE, "distiller": "dmd2", "teacher": "cfg"}, all_in="distill")
OTHERS = (
    Cell("teacher, 4 steps", {**WHOLE, "distiller": "euler"}),
    DMD2,
    Cell("lcm", {**WHOLE, "distiller": "lcm", "teacher": "cfg"}, all_in="distill"),
    Cell("magic", {**WHOLE, "distiller": "magic", "teacher": "magic"}, all_in="distill"),
    Cell("icmd", {"pruner": "icmd", "recovery": "icmd", "recover": GUIDED, **STOP}, all_in="recover"),
    Cell("blocks by F3's score", {"pruner": "f3", "recovery": "none", **STOP}),
)


NOTES = (
    "The teacher and the rows without distillation are sampled at the model's own guidance, the latter on the students'"
    " grid of sigmas. F3 drops temporal attention where its score says so; here whole blocks go by that score and"
    " nothing is trained, so that the row is none of F3's and no number of the paper stands beside it. "
)
ITERATIONS = (
    "One trainer, batch and number of training iterations for every row that trains (a method of one stage has those of"
    " both there): equal in clips seen, and neither in block evaluations nor in updates of the student. "
)
TINY = (
    "Rates of each method's last stage and whether its teacher is guided (none is) are its best of `benchmarks.search`,"
    " one seed; those of fastlightgen, which all tables have, are of an earlier search (Table 11 has a row with the"
    " present one's). Rates of stage II, and the rest of the preset, were found for fastlightgen before (README)."
    " fastlightgen is its preset's: beta1 1, beta2 1, blocks scored greedily after a short recovery, at the student's"
    " times (the paper's: 3.5, .25, once, before any; beta2 is in Tables 5 and 9, the score in Table 10), and icmd's"
    " adversarial weight is .01 (the paper's: 1)."
)
FULL = (
    "Rates are the algorithms' defaults, fastlightgen's are the paper's; none was searched for at this size. The"
    " teachers of all distilled rows are guided as strongly as fastlightgen's, by beta1."
)
#: Row labels to those of the paper's table.
PAPER = {"teacher": "euler"} | {name: name for name in ("dmd2", "lcm", "magic", "icmd", "fastlightgen")}


def table(scale: str) -> Table:
    return Table(
        2,
        "Methods at equal iterations (Table 2)",
        (*OTHERS, OURS, INTERVALS),
        PAPER,
        reference="fastlightgen",
        papers=("table2",),
        notes=ITERATIONS + NOTES + (TINY if scale == "tiny" else FULL),
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
