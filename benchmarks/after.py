"""What Eq 4 says of every set of blocks before and after a short recovery with random blocks away.

    python -m benchmarks.after [--seeds 0 1 2] [--runs DIR]

Of each seed of the embedded model: the x0 error without each of the 120 sets of three blocks of ten, of the network as
it is and after the iterations of stage II that `elbo` asks for (`pruner.after`), along the whole path and at the
4-step student's times; on the same clips, noise and times. How far the two orders agree (Spearman), what each
measure would choose, and where the sets that were chosen otherwise stand. `--runs` keeps the short recoveries.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.common import write
from flc.api import Kept
from flc.recipe import resolve
from flc.registry import create
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.scoring import noised_clips, prunable
from flc.run.stages.prepare import PREPARE
from flc.run.stages.score import SCORE
from flc.run.weights import load_transformer

ITERATIONS, AFTER, SAMPLES = 320, 160, 96
TIMES = ("path", "student")
#: Sets of removed blocks that something else has chosen.
NAMED = {"at equal intervals": (1, 5, 8), "greedily, before": (3, 6, 7)}
Removed = tuple[int, ...]


def recipe(seed: int, times: str) -> Any:
    pruner = {"name": "elbo", "samples": SAMPLES, "search": "sets", "after": AFTER, "times": times}
    values = {"seed": seed, "prepare": {"clips": 1152}, "recover": {"iterations": ITERATIONS}, "pruner": pruner}
    return completed(resolve(values, {}, {}))


def gone(kept: Kept) -> Removed:
    return tuple(sorted(set(range(10)) - set(kept["blocks"])))


def errors(job: Job, transformer: Any, data: Path, times: str) -> dict[Removed, float]:
    """By set of removed blocks."""
    pruner = create("pruner", "elbo", {"samples": SAMPLES, "search": "sets", "times": times})
    model = prunable(job, transformer)
    with noised_clips(job, data) as batches:
        clips = pruner.data(model, batches)
        return {gone(kept): error for error, kept in pruner.sets(model, clips, job.budget)}


def of_seed(seed: int, folder: Path) -> dict[str, Any]:
    base = Job(recipe(seed, "path"), folder / f"seed-{seed}", Console(quiet=True))
    data = PREPARE.run(base, {})
    scored, out = SCORE.run(base, {"data": data}), dict[str, Any]()
    for times in TIMES:
        job = Job(recipe(seed, times), base.out, base.console)
        found = {
            "before": errors(job, job.adapter.transformer, data, times),
            "after": errors(job, load_transformer(job, scored), data, times),
        }
        sets = sorted(found["before"])
        order = spearmanr(*([e[s] for s in sets] for e in found.values())).statistic
        out[times] = {"spearman": float(order)} | {
            when: {
                "best": [{"removed": s, "error": round(e[s], 5)} for s in sorted(sets, key=lambda s: e[s])[:5]],
                "place": {name: 1 + sum(e[s] < e[named] for s in sets) for name, named in NAMED.items()},
            }
            for when, e in found.items()
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        seeds = {seed: of_seed(seed, given.runs or Path(scratch)) for seed in given.seeds}
    places = {
        f"{when}, {times}": {name: mean(s[times][when]["place"][name] for s in seeds.values()) for name in NAMED}
        for times in TIMES
        for when in ("before", "after")
    }
    values = {"iterations": AFTER, "clips": SAMPLES, "sets": 120, "mean_place": places, "seeds": seeds}
    print(write("after", "python -m benchmarks.after", values).read_text())


if __name__ == "__main__":
    main()
