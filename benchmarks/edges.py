"""Where a student stops working: other step counts than it was trained for, and another size.

    python -m benchmarks.edges --run flc-out

As a stock call has it: the folder's scheduler, asked for another number of steps, leaves the trained schedule (and of
one step it makes nothing). Beside that, each of these numbers, and one, with the schedule that a student trained for it
would have (same shift, same sampler).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write
from flc.api import View
from flc.data.source import drawn_clips
from flc.evaluate.clips import Clips
from flc.evaluate.sampling import Row, condition, generate, make_prompts
from flc.evaluate.suite import score_row
from flc.models.folder import NOTES, adapter_for, read_json
from flc.train.nets import RoleNet

SEED, CLIPS = 0, 96


def reference(size: tuple[int, int, int]) -> Clips:
    pairs = list(drawn_clips(192, *size, SEED + 104_729))
    videos = np.stack([v for v, _ in pairs])
    return Clips(videos, tuple(c for _, c in pairs), videos[:, 0], np.zeros(len(pairs), bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    folder = args.run / "pipeline"
    declared = read_json(folder / NOTES)
    adapter = adapter_for(folder).load(folder)
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    trained, steps = tuple(declared["size"]), declared["steps"]
    sizes = ((17, 64, 64), (25, 48, 48), (9, 48, 48))
    cases = [(n, trained, False) for n in (2, steps, 8, 20)] + [(steps, size, False) for size in sizes]
    cases += [(n, trained, True) for n in (1, 2, 8, 20)]
    rows: list[dict[str, Any]] = []
    for n, size, own in cases:
        prompts = make_prompts(list(drawn_clips(CLIPS // 2, *size, SEED + 7919)), 2, 0.5, SEED)
        cond = condition(adapter, prompts, "", size[0])
        scheduler = adapter.teacher_scheduler()  # the folder's
        title = f"{n} steps, {size[0]} frames of {size[1]}x{size[2]}"
        if own:
            scheduler = adapter.schedule(n, declared["shift"], declared["sampler"]).scheduler
            title += ", schedule of its own"
        row = Row(title, title, net, scheduler, n, 1.0, declared["parameters"])
        made, seconds = generate(adapter, row, prompts, cond, adapter.latent_shape(*size), 24, lambda: None)
        rows.append(score_row(row, made, reference(size), seconds))
        shown = {n: rows[-1]["scores"][n] for n in ("distribution", "diversity")}
        print(title, round(rows[-1]["average"], 3), rows[-1]["words"], shown, flush=True)
    write("edges", f"python -m benchmarks.edges --run {args.run.name}", {"seed": SEED, "clips": CLIPS, "rows": rows})


if __name__ == "__main__":
    main()
