"""Methods side by side: metrics, average, time, speed-up (the paper's Table 2).

    python -m benchmarks.table2 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

One trainer, one budget, one metric suite. Rows that prune keep 70 % of the blocks; those that do not, all. Learning
rates are each method's best of `benchmarks.search` at scale tiny, and each algorithm's own at full size.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.table import GUIDED, Table, main

WHOLE = {"keep": 1.0, "recovery": "none"}
OTHERS = (
    Cell("teacher, 4 steps", {**WHOLE, "distiller": "euler"}),
    Cell("dmd2", {**WHOLE, "distiller": "dmd2", "teacher": "cfg"}, all_in="distill"),
    Cell("lcm", {**WHOLE, "distiller": "lcm", "teacher": "cfg"}, all_in="distill"),
    Cell("magic", {**WHOLE, "distiller": "magic", "teacher": "magic"}, all_in="distill"),
    Cell(
        "icmd",
        {"pruner": "icmd", "recovery": "icmd", "recover": GUIDED, "distiller": "euler", "steps": 28},
        all_in="recover",
    ),
    Cell("f3", {"pruner": "f3", "recovery": "none", "distiller": "euler", "steps": 28}),
)
OURS = Cell("fastlightgen")
#: The flagship itself at full size.
PAPERS_BETA2 = Cell("fastlightgen, beta2 0.25", {"teacher": {"name": "well-guided", "beta2": 0.25}})
CODMD = Cell("codmd on fastlightgen", {"distiller": "codmd"})

NOTES = (
    "One trainer, batch and number of training iterations for every row that trains (a method of one stage has those of"
    " both there). The teacher and the rows without distillation are sampled at the model's own guidance, the latter on"
    " the students' grid of sigmas. "
)
TINY = (
    "Rates of each method's last stage are its best of `benchmarks.search`, one seed; those of stage II, and the rest"
    " of the preset, were found for fastlightgen before (README). fastlightgen is its preset's, beta1 1, beta2 1,"
    " blocks ranked greedily (the paper's: 3.5, .25, once), and icmd's adversarial weight is .01 (the paper's: 1). No"
    " distilled row's teacher is guided: the scale of cfg and magic is 1, as is beta1, which was chosen for"
    " fastlightgen; LCM's guidance-augmented solver is then the plain one. The model's own guidance is 2."
)
FULL = (
    "Rates are the algorithms' defaults, fastlightgen's are the paper's; none was searched for at this size. The"
    " teachers of all distilled rows are guided as strongly as fastlightgen's, by beta1."
)


def table(scale: str) -> Table:
    tiny = scale == "tiny"
    return Table(
        2,
        "Methods (Table 2)",
        (*OTHERS, OURS, PAPERS_BETA2, CODMD) if tiny else (*OTHERS, OURS, CODMD),
        {"teacher": "euler"} | {name: name for name in ("dmd2", "lcm", "magic", "icmd", "f3", "fastlightgen")},
        reference="fastlightgen",
        papers=("table2",),
        notes=NOTES + (TINY if tiny else FULL),
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
