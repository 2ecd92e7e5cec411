"""Diffusers video pipelines under one suite, each as it comes (the paper's Table 1).

    python -m benchmarks.table1 [--scale tiny] [--seeds 0 1 2] [--pipelines NAME=FOLDER,steps=50,guidance=6 ...]
    python -m benchmarks.table1 --scale wan-14b --manifest prompts.jsonl --suite vbench-i2v --vbench-python PY \\
        --pipelines cogvideox=CogVideoX-5b-I2V svd=... wan=... ours=OUT/pipeline

Without `--pipelines` the rows are the scale's model at its own guided steps and the flagship's students, one a seed.
Each pipeline is called one clip at a time, with the same prompts, first frames and seeds, at the steps and guidance
that its folder or its class declares. A pipeline that takes no first frame fails on a prompt with one, and says so.
Times are of the whole call, pipelines in turn, round after round, each loaded anew (`timing` of the scale). The paper
took its rows from VBench's website; they stand in a table of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.cells import digest
from benchmarks.common import RESULTS, spread, write
from benchmarks.pipelines import Contestant, Stock, clips, seconds
from benchmarks.render import SCORES, pair, picture
from benchmarks.table import PAPER, add_arguments, plan, runs_of, scale_of
from benchmarks.table2 import TABLE
from flc.data.source import drawn_clips, write_video
from flc.errors import UserError
from flc.evaluate import vbench
from flc.evaluate.clips import Clips
from flc.evaluate.manifest import Asked, Shot, check_given, clip_seed, read_manifest, shots
from flc.evaluate.manifest import digest as digest_of
from flc.evaluate.metrics import average
from flc.evaluate.suite import metrics
from flc.evaluate.vbench_layout import SEEDS, expected, file_name
from flc.models.folder import EMBEDDED

OURS = next(cell for cell in TABLE.rows if cell.label == "fastlightgen")
CELLS = [OURS]
SIZE = (17, 48, 48)
CLIPS, REFERENCE = 96, 288


def drawn_shots(seed: int, folder: Path) -> tuple[list[Shot], Clips]:
    """Prompts of drawn clips, half of them with their first frame as an image file, and the clips to compare with."""
    asked = []
    for index, (video, caption) in enumerate(drawn_clips(CLIPS, *SIZE, seed + 7919)):
        image = None
        if index % 2 == 0:
            image = folder / f"{seed}-{index}.png"
            Image.fromarray((video[0] * 255).round().astype(np.uint8)).save(image)
        asked.append(Shot(caption, 0, clip_seed(seed, index, 1, 0), image))
    videos = [video for video, _ in drawn_clips(REFERENCE, *SIZE, seed + 104_729)]
    pairs = np.stack(videos)
    return asked, Clips(pairs, ("",) * len(videos), pairs[:, 0], np.zeros(len(videos), bool))


def under_shapes(stock: Stock, seed: int, folder: Path) -> dict[str, Any]:
    asked, reference = drawn_shots(seed, folder)
    videos = clips(stock, asked, SIZE)
    first = np.stack(
        [
            np.asarray(Image.open(s.image), np.float32) / 255 if s.image else v[0]
            for s, v in zip(asked, videos, strict=True)
        ]
    )
    given = np.array([s.image is not None for s in asked])
    made = Clips(videos, tuple(s.prompt for s in asked), first, given)
    scores = {name: metric.score(made, reference) for name, metric in metrics().items()}
    return {"average": average(scores), "scores": {n: s.value for n, s in scores.items()}}


def under_vbench(
    stock: Stock, asked: Sequence[Asked], size: tuple[int, int, int], suite: str, folder: Path, python: Path | None
) -> dict[str, Any]:
    """The videos in VBench's layout; then its values, where it runs or its JSON lies in `folder/results` already."""
    pending, fps = shots(asked, SEEDS, 0), stock.fps
    vbench.describe_videos(folder, asked, pending, suite)
    for shot in vbench.missing(folder, pending):
        partial = folder / ".new.mp4"
        write_video(partial, stock.clip(shot, size), fps)
        partial.replace(folder / vbench.VIDEOS / file_name(shot.prompt, shot.number))  # whole or not at all
    wanted = expected(asked, suite)
    lacking = [d for d in wanted if d not in vbench.read_results(folder / vbench.RESULTS)]
    wrong = vbench.run(python, suite, folder, str(stock.device), lacking) if lacking and python else ""
    found = vbench.read_results(folder / vbench.RESULTS)
    if not wanted.keys() <= found.keys():
        raise UserError(f"VBench's values are missing ({wrong or 'give --vbench-python'}); the videos are in {folder}")
    scores = {d: found[d].value for d in wanted}
    return {"average": sum(scores.values()) / len(scores), "scores": scores}


def place_of(
    contestant: Contestant, size: tuple[int, int, int], asked: Sequence[Asked], args: argparse.Namespace
) -> Path:
    """A folder that other weights, steps, guidance, sizes or prompts do not share."""
    weights = [[f.name, f.stat().st_size, f.stat().st_mtime] for f in sorted(contestant.folder.rglob("*.safetensors"))]
    mark = digest([weights, contestant.steps, contestant.guidance, size, digest_of(asked)])
    return args.runs / args.scale / "table1" / args.suite / f"{contestant.name}-{mark}"


def collected(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds of a pipeline's rows."""
    out = {"average": spread([r["average"] for r in rows])}
    out["scores"] = {n: spread([r["scores"][n] for r in rows]) for n, v in rows[0]["scores"].items() if v == v}
    return out


def add_times(rows: Mapping[str, dict[str, Any]], first: Mapping[str, Contestant], args: argparse.Namespace) -> None:
    """Seconds a clip of each row that did not fail, round by round."""
    base, timing = scale_of(args).base(), scale_of(args).read().get("timing", {})
    there = {name: contestant for name, contestant in first.items() if "error" not in rows[name]}
    size = SIZE if args.suite == "shapes" else tuple(base[k] for k in ("frames", "height", "width"))
    asked = [Asked("a red circle moving left")] if args.suite == "shapes" else read_manifest(args.manifest)
    taken: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(timing.get("rounds", 5)):
        for name in list(taken):
            stock = Stock(there[name], base.get("device", "cpu"), base.get("dtype", "float32"))
            try:
                taken[name].append(seconds(stock, shots(asked[:1], timing.get("clips", 8), 0), size))
            except Exception as error:  # a stranger's pipeline; not worth a finished table
                print(f"{name} has no time: {type(error).__name__}: {error}", file=sys.stderr)
                del taken[name]
    for name, found in taken.items():
        rows[name]["seconds"] = spread(found)


def measured(folders: Sequence[tuple[Contestant, int]], args: argparse.Namespace) -> dict[str, Any]:
    """One row; `folders` says which folder stands for which seed. A pipeline may fail in any way: the row says it.

    VBench's suites have five seeds of their own a prompt, so that a row is of one folder there, the first.
    """
    base, rows, about = scale_of(args).base(), [], {}
    try:
        for contestant, seed in folders if args.suite == "shapes" else folders[:1]:
            stock = Stock(contestant, base.get("device", "cpu"), base.get("dtype", "float32"))
            if args.suite == "shapes":
                with tempfile.TemporaryDirectory() as scratch:
                    rows.append(under_shapes(stock, seed, Path(scratch)))
            else:
                size, asked = tuple(base[k] for k in ("frames", "height", "width")), read_manifest(args.manifest)
                place = place_of(contestant, size, asked, args)
                rows.append(under_vbench(stock, asked, size, args.suite, place, args.vbench_python))
            about = {"parameters": stock.parameters} | stock.settings(bool(stock.folder_takes_images))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"error": lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"}
    return collected(rows) | about


def markdown(values: dict[str, Any]) -> str:
    names = list(dict.fromkeys(n for r in values["rows"].values() for n in r.get("scores", {})))
    names = [n for n in SCORES if n in names] + [n for n in names if n not in SCORES]
    head = ["", "steps", "guidance", "M", "s a clip", "average", *[n.replace("_", " ") for n in names]]
    lines = ["## Pipelines (Table 1)", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in values["rows"].items():
        if "error" in row:
            lines.append(f"| {label} | failed: {row['error']} |" + " |" * (len(head) - 2))
            continue
        cells = [
            str(row.get("num_inference_steps", "n/a")),
            str(row.get("guidance_scale", "n/a")),
            f"{row['parameters'] / 1e6:.2f}",
        ]
        cells += [pair(row["seconds"]) if "seconds" in row else "n/a", pair(row["average"])]
        cells += [pair(row["scores"][n]) if n in row["scores"] else "n/a" for n in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    paper = values["paper"]
    lines += [
        "",
        "Printed in the paper (VBench-I2V, from its website):",
        "",
        "| | " + " | ".join(paper["columns"]) + " |",
    ]
    lines += ["|" + "---|" * (len(paper["columns"]) + 1)]
    lines += [f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |" for name, row in paper["rows"].items()]
    return "\n".join(lines) + "\n"


def check(args: argparse.Namespace) -> None:
    if args.suite == "shapes" and args.scale != "tiny":
        raise UserError(f"--scale {args.scale} is not of drawn clips: give --suite vbench or vbench-i2v")
    if args.suite != "shapes" and args.scale == "tiny":
        raise UserError(f"--suite {args.suite} needs the --scale of real clips: wan-1.3b, wan-14b or hunyuan-13b")
    if args.suite != "shapes" and not args.manifest:
        raise UserError(f"--suite {args.suite} needs --manifest, JSON lines of prompts (and images)")
    if args.manifest:
        check_given(read_manifest(args.manifest), args.suite, image_to_video=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--pipelines", nargs="*", default=[], metavar="NAME=FOLDER", help="what to compare")
    parser.add_argument("--suite", choices=("shapes", "vbench", "vbench-i2v"), default="shapes")
    parser.add_argument("--manifest", type=Path, help="JSON lines of prompts and images, for VBench's suites")
    parser.add_argument("--vbench-python", type=Path, help="python of an environment with vbench")
    args = parser.parse_args()
    try:
        chosen = [Contestant.read(text) for text in args.pipelines]
        check(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    runs = runs_of(args)
    if args.list or args.dry_run:
        return plan(runs, [] if chosen else CELLS, args)
    if chosen:
        folders = {c.name: [(c, s) for s in args.seeds] for c in chosen}
    else:
        runs.run(CELLS, args.seeds, whole=True)
        folders = {
            "teacher": [
                (Contestant("teacher", Path(runs.scale.base().get("model") or EMBEDDED)), s) for s in args.seeds
            ],
            "fastlightgen": [(Contestant("ours", runs.path(OURS, s) / "pipeline"), s) for s in args.seeds],
        }
    rows = {name: measured(pairs, args) for name, pairs in folders.items()}
    add_times(rows, {name: pairs[0][0] for name, pairs in folders.items()}, args)
    values = {
        "suite": args.suite,
        "seeds": args.seeds,
        "rows": rows,
        "paper": yaml.safe_load(PAPER.read_text())["table1"],
    }
    name = "table1" if args.scale == "tiny" else f"table1_{args.scale}"
    write(name, f"python -m benchmarks.table1 --scale {args.scale}", values)
    (RESULTS / f"{name}.md").write_text(markdown(values))
    picture(values, RESULTS / f"{name}.png")
    print(markdown(values))
    return int(any("error" in row for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
