"""Guidance by the text and by the removed blocks, beta1 and beta2 (the paper's Tables 5 and 8).

    python -m benchmarks.table5 [--scale tiny] [--seeds 0 1 2] [--jobs 2] [--list]

At full size the rows are the paper's own, of WanX (Table 5) or HunyuanVideo (Table 8). The embedded model's best beta1
(1, which is none, of its own guidance of 2) is below that, as the paper's is (3.5 of 5 for Wan): its rows stand beside
the paper's in that order, not at equal numbers.
"""

from __future__ import annotations

import sys

from benchmarks.cells import Cell
from benchmarks.paper import printed
from benchmarks.table import GUIDED, Table, main

Betas = tuple[float, float]
#: (the embedded model's, the paper's WanX row)
TINY: tuple[tuple[Betas, str], ...] = (
    ((1.0, 0.0), "3.5, 0.00"),
    ((1.0, 0.25), "3.5, 0.25"),
    ((1.0, 0.5), "3.5, 0.50"),
    ((1.0, 0.75), "3.5, 0.75"),
    ((1.0, 1.0), "3.5, 1.00"),
    ((0.75, 0.25), "1.5, 0.25"),
    ((0.9, 0.25), "2.5, 0.25"),
    ((2.0, 0.25), "4.5, 0.25"),
)


def papers(scale: str) -> tuple[str, ...]:
    """The paper's tables of this sweep, the one whose rows stand beside ours first."""
    return ("table8", "table5") if scale.startswith("hunyuan") else ("table5", "table8")


def rows(scale: str) -> tuple[tuple[Betas, str], ...]:
    """Each row's betas, and its row in the paper."""
    if scale == "tiny":
        return TINY
    keys = printed(papers(scale)[0])["rows"]
    return tuple(((float(key.split(",")[0]), float(key.split(",")[1])), key) for key in keys)


def label(betas: Betas) -> str:
    return f"beta1 {betas[0]:g}, beta2 {betas[1]:g}"


def cell(betas: Betas) -> Cell:
    """Where the text guides, the teacher asks the recovered network for a velocity without it: stage II trains that."""
    teacher = {"name": "well-guided", "beta1": betas[0], "beta2": betas[1]}
    return Cell(label(betas), {"teacher": teacher} | ({"recover": GUIDED} if betas[0] != 1 else {}))


#: What the guided rows differ from: the same stage II, and no guidance by the text.
CONTROL = Cell(f"{label((1.0, 0.25))}, empty prompt trained", {**cell((1.0, 0.25)).values, "recover": GUIDED})


def table(scale: str) -> Table:
    return Table(
        5,
        "Guidance of the teacher (Tables 5 and 8)",
        (*(cell(betas) for betas, _ in rows(scale)), *((CONTROL,) if scale == "tiny" else ())),
        {label(betas): key for betas, key in rows(scale)},
        papers=papers(scale),
        notes="The paper's best beta1 is below its model's own guidance (3.5 of 5), and so is the embedded model's (1,"
        " which is none, of 2): its rows stand beside the paper's in that order, not at equal numbers. Where beta1 is"
        " not 1 the teacher asks for the empty prompt, and a tenth of the texts is dropped in stage II for it"
        + ("; the last row has that too, without guidance." if scale == "tiny" else "."),
    )


if __name__ == "__main__":
    sys.exit(main(table, __doc__))
