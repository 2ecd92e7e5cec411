"""The main claim, over seeds: the student against the teacher, the pruned and the recovered network.

    python -m benchmarks.quality --preset quick [--seeds 0 1 2] [--runs DIR]

Each seed is one `flc compress`; its rows are kept in `results/quality/`, and a seed whose rows are there, of the same
recipe, is not run again. Times are taken anew: networks of the rows' shapes in turn, in one process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import MEANS, digest
from benchmarks.common import RESULTS, spread, write
from benchmarks.runner import cache
from benchmarks.table import interval_of
from benchmarks.timing import seconds
from flc.api import View
from flc.cli import main as flc
from flc.evaluate.intervals import clip_averages, difference
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.view import blocks_of
from flc.recipe import resolve
from flc.run.compress import completed
from flc.train.nets import RoleNet


def run(arguments: list[str]) -> None:
    try:
        flc(arguments)
    except SystemExit as error:
        if error.code:
            raise


def times(rows: list[dict[str, Any]], rounds: int = 5, clips: int = 8) -> list[list[float]]:
    """Seconds a clip of each row in each round. A row's network is the embedded one with as many of its blocks, all of
    one size, as make up the row's parameters."""
    adapter = adapter_for(EMBEDDED).load(EMBEDDED)
    module, (stack,) = adapter.transformer, adapter.stacks
    blocks, whole = blocks_of(module, stack), sum(p.numel() for p in module.parameters())
    size = sum(p.numel() for p in blocks[0].parameters())

    def turn(row: dict[str, Any]) -> float:
        gone, rest = divmod(whole - row["parameters"], size)
        assert rest == 0, f"{row['title']}: not whole blocks"
        net = RoleNet(adapter, module, module, View({stack: tuple(range(len(blocks) - gone))}))
        scheduler = adapter.teacher_scheduler()
        return seconds(adapter, net, scheduler, row["steps"], row["guidance"], adapter.size_of(EMBEDDED), clips)

    taken = [[turn(row) for row in rows] for _ in range(rounds)]
    return [list(one) for one in zip(*taken, strict=True)]


def aggregate(documents: list[dict[str, Any]], taken: list[list[float]]) -> list[dict[str, Any]]:
    rows = []
    for index, row in enumerate(documents[0]["rows"]):
        same = [d["rows"][index] for d in documents]
        scores = {name: spread([r["scores"][name] for r in same]) for name, v in row["scores"].items() if v is not None}
        # time as a ratio to the guided teacher's of the same round
        speed = spread([whole / own for whole, own in zip(taken[0], taken[index], strict=True)])
        ahead = student_ahead([d["rows"][-1] for d in documents], same)
        about = {k: row[k] for k in ("name", "title", "steps", "guidance", "parameters")}
        average = spread([r["average"] for r in same])
        apart = [{kind: r[kind].get("sharpness") for kind in ("text_only", "first_frame")} for r in same]
        rows.append(about | {"average": average, "student_ahead": ahead, "speed_up": speed, "scores": scores,
                             "sharpness_by_seed": apart})  # fmt: skip
    return rows


def student_ahead(students: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """With its interval, paired clip by clip: rows of one run share prompts, first frames and noise. Of runs that kept
    no clips, with its spread over seeds."""
    if all("clip_averages" in row for row in (*students, *rows)):
        clips = ([np.array(row["clip_averages"]) for row in some] for some in (students, rows))
        return interval_of(difference(*clips))
    return spread([student["average"] - row["average"] for student, row in zip(students, rows, strict=True)])


def kept_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.json without what each metric says of each clip: their average stays, to three digits more than
    tables print."""
    averages = [round(average, 6) for average in clip_averages(row).tolist()]
    return {name: value for name, value in row.items() if name != "per_clip"} | {"clip_averages": averages}


def rows_of(preset: str, seed: int, clips: int, out: Path) -> dict[str, Any]:
    """The rows of one seed, with the commit that made them; run in `out` where they are not kept yet."""
    recipe = completed(resolve({"preset": preset, "seed": seed, "evaluate": {"clips": clips}}, {}, {}))
    values = recipe.model_dump(mode="json", exclude={name: MEANS[name] for name in ("recover", "distill")})
    asked, kept = digest(values), RESULTS / "quality" / f"{preset}-{seed}.json"
    if kept.exists() and (document := json.loads(kept.read_text()))["recipe"] == asked:
        return document
    extra = ["--resume"] if out.exists() else []  # a whole run has nothing to do; one of another recipe is refused
    run(["compress", "--preset", preset, "--seed", str(seed), "--out", str(out),
         "--set", f"evaluate.clips={clips}", *extra])  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    about = {"recipe": asked, "seed": seed, "clips": metrics["clips"]}
    about |= {"averaged": [metric["name"] for metric in metrics["metrics"] if metric["in_average"]]}
    rows = {"rows": [kept_of(row) for row in metrics["rows"]]}
    command = f"python -m benchmarks.quality --preset {preset} --seeds {seed}"
    return json.loads(write(f"quality/{preset}-{seed}", command, about | rows).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=("quick", "full"), default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=cache() / "quality", help="folder of runs")
    parser.add_argument("--clips", type=int, default=288, help="a row and seed; more than the presets': less chance")
    args = parser.parse_args()
    documents = [rows_of(args.preset, s, args.clips, args.runs / f"{args.preset}-{s}") for s in args.seeds]
    values = {
        "preset": args.preset,
        "seeds": args.seeds,
        "clips": args.clips,
        "rows": aggregate(documents, times(documents[0]["rows"])),
    }
    runs_of = {"runs_of": sorted({d["commit"] for d in documents}), "averaged": documents[0].get("averaged")}
    print(write(f"quality_{args.preset}", f"python -m benchmarks.quality --preset {args.preset}", values | runs_of))


if __name__ == "__main__":
    main()
