"""The main claim, over seeds: the student against the teacher, the pruned and the recovered network.

    python -m benchmarks.quality --preset quick [--seeds 0 1 2] [--runs DIR]

Each seed is one `flc compress`; a seed whose metrics are there already is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import spread, write
from flc.cli import main as flc


def run(arguments: list[str]) -> None:
    try:
        flc(arguments)
    except SystemExit as error:
        if error.code:
            raise


def aggregate(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for index, row in enumerate(documents[0]["rows"]):
        same = [d["rows"][index] for d in documents]
        scores = {name: spread([r["scores"][name] for r in same]) for name, v in row["scores"].items() if v is not None}
        # time as a ratio to the guided teacher of the same run
        speed = spread([d["rows"][0]["seconds"] / d["rows"][index]["seconds"] for d in documents])
        # paired: rows of one run share prompts, first frames and noise
        ahead = spread([d["rows"][-1]["average"] - d["rows"][index]["average"] for d in documents])
        about = {k: row[k] for k in ("name", "title", "steps", "guidance", "parameters")}
        average = spread([r["average"] for r in same])
        notes = [r["notes"].get("sharpness", "") for r in same]
        rows.append(about | {"average": average, "student_ahead": ahead, "speed_up": speed, "scores": scores,
                             "sharpness_by_seed": notes})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=("quick", "full"), default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--clips", type=int, default=192, help="a row and seed; more than the presets': less chance")
    args = parser.parse_args()
    documents = []
    for seed in args.seeds:
        out = args.runs / f"{args.preset}-{seed}"
        if not (out / "metrics.json").exists():
            extra = ["--resume"] if out.exists() else []
            run(["compress", "--preset", args.preset, "--seed", str(seed), "--out", str(out),
                 "--set", f"evaluate.clips={args.clips}", *extra])  # fmt: skip
        documents.append(json.loads((out / "metrics.json").read_text()))
    values = {"preset": args.preset, "seeds": args.seeds, "clips": documents[0]["clips"], "rows": aggregate(documents)}
    print(write(f"quality_{args.preset}", f"python -m benchmarks.quality --preset {args.preset}", values))


if __name__ == "__main__":
    main()
