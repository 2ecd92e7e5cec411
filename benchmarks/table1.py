"""Diffusers video pipelines under one suite, each as it comes (the paper's Table 1).

    python -m benchmarks.table1 [--scale tiny] [--seeds 0 1 2] [--pipelines NAME=FOLDER,steps=50,guidance=6 ...]
    python -m benchmarks.table1 --scale wan-ti2v-5b --manifest prompts.jsonl --vbench-python PY \\
        --pipelines cogvideox=CogVideoX-5b-I2V,frames=49,height=480,width=720 svd=... wan=... ours=OUT/pipeline

Without `--pipelines` the rows are the scale's model at its own guided steps and the flagship's students, one a seed.
Each pipeline is called one clip at a time, with the same prompts, first frames and seeds, at the steps and guidance
that its folder or its class declares, at the scale's size unless it says its own. Suite, prompts and VBench's
interpreter are the scale's own (`evaluate`, --set) unless the command says others. A pipeline that takes no first frame
fails on a prompt with one, and says so. Drawn clips are those of a run's own evaluation, several of a caption, or of a
manifest. Where a suite's files are missing or wrong, every row says so. Times are of the whole call, pipelines in turn,
round after round, each loaded anew (`timing` of the scale). The paper's rows stand in a table of their own.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.cells import SCALES, digest
from benchmarks.common import RESULTS, spread, worth_writing, write
from benchmarks.paper import averages, dimensions, printed
from benchmarks.pipelines import Contestant, Stock, clips, seconds
from benchmarks.render import SCORES, as_printed, fewer, head, line, over, pair, picture
from benchmarks.runner import Runs, cache
from benchmarks.table import add_arguments, plan, runs_of, scale_of
from benchmarks.table2 import OURS
from flc.data.source import drawn_clips, write_video
from flc.errors import UserError
from flc.evaluate import vbench
from flc.evaluate.clips import Clips
from flc.evaluate.manifest import Asked, Shot, check_given, read_manifest, shots
from flc.evaluate.manifest import digest as digest_of
from flc.evaluate.metrics import average
from flc.evaluate.options import check_options
from flc.evaluate.sampling import Prompts, make_prompts, prompts_of
from flc.evaluate.suite import metrics
from flc.evaluate.vbench_layout import SEEDS, expected, file_name, official_prompts
from flc.models.folder import EMBEDDED, adapter_for
from flc.recipe import EvaluateStage, Recipe, merge, resolve
from flc.run.compress import completed

CELLS = [OURS]
DRAWN = (17, 48, 48)
"""Frames, height and width of the embedded model's clips."""


@dataclass(frozen=True)
class Suite:
    """What every pipeline is asked: what the scale's recipe asks of a run of its own."""

    recipe: Recipe
    asked: list[Asked]
    timing: Mapping[str, int]
    folder: Path

    @property
    def options(self) -> EvaluateStage:
        return self.recipe.evaluate

    @property
    def drawn(self) -> bool:
        return self.options.suite == "shapes"

    @property
    def size(self) -> tuple[int, int, int]:
        given = (self.recipe.frames, self.recipe.height, self.recipe.width)
        frames, height, width = (g or d for g, d in zip(given, DRAWN, strict=True))
        return frames, height, width

    def of(self, contestant: Contestant) -> Suite:
        """At the size that a contestant asks for; VBench's images are cut for its aspect ratio. `UserError` of drawn
        clips, which are compared pixel by pixel."""
        sizes = {name: getattr(contestant, name) for name in ("frames", "height", "width")}
        own = {name: size for name, size in sizes.items() if size}
        if not own:
            return self
        if self.drawn:
            raise UserError(f"{contestant.name} has {', '.join(own)} of its own: drawn clips are compared at one size")
        made = replace(self, recipe=self.recipe.model_copy(update=own))
        return replace(made, asked=prompts(made))

    def stock(self, contestant: Contestant) -> Stock:
        return Stock(contestant, self.recipe.device, self.recipe.dtype)


def suite_of(args: argparse.Namespace) -> Suite:
    """By the scale's recipe, and what the command says itself; `UserError` where they do not go together. Prompts are
    still to be read."""
    given = {"suite": args.suite, "manifest": args.manifest, "vbench_python": args.vbench_python}
    said = {name: str(value) for name, value in given.items() if value}
    scale = scale_of(args)
    recipe = completed(resolve(merge(scale.base(), {"evaluate": said}), {}, {}))
    check(recipe.evaluate, args.scale)
    folder = (args.runs or cache()) / args.scale / "table1" / recipe.evaluate.suite
    return Suite(recipe, [], scale.read().get("timing", {}), folder)


def check(o: EvaluateStage, scale: str) -> None:
    if o.suite == "shapes" and scale != "tiny":
        raise UserError(f"--scale {scale} is not of drawn clips: give --suite vbench or vbench-i2v")
    if o.suite != "shapes" and scale == "tiny":
        others = ", ".join(sorted(path.stem for path in SCALES.glob("*.yaml") if path.stem != "tiny"))
        raise UserError(f"--suite {o.suite} needs the --scale of real clips: {others}")


def prompts(suite: Suite) -> list[Asked]:
    """Of a manifest, or VBench's own; none where clips are drawn for the purpose. `UserError` of files that are missing
    or wrong."""
    o = suite.options
    if o.manifest:
        asked = read_manifest(Path(o.manifest))
    elif suite.drawn:
        return []
    else:
        asked = official_prompts(Path(o.vbench_data or ""), o.suite, *suite.size[1:])
    model = Path(suite.recipe.model or EMBEDDED)  # it may lie elsewhere, with the runs kept
    needed = model.exists() and adapter_for(model, weights=False).needs_first_frame
    check_given(asked, o.suite, image_to_video=True, needed=needed)
    return asked


def drawn_shots(suite: Suite, seed: int, folder: Path) -> tuple[list[Shot], Prompts, Clips]:
    """Prompts of a run's own evaluation, first frames as image files, and the clips that it compares with."""
    o = suite.options
    asked = shots(suite.asked, o.seeds, seed)
    if asked:
        made = prompts_of(asked, *suite.size[1:])
    else:
        drawn = list(drawn_clips(-(-o.clips // o.seeds), *suite.size, seed + 7919))
        made = make_prompts(drawn, o.seeds, o.given_share, seed)
        for index, (caption, number) in enumerate(zip(made.captions, made.seeds, strict=True)):
            image = folder / f"{index}.png" if made.given[index] else None
            if image:
                Image.fromarray((made.first[index] * 255).round().astype(np.uint8)).save(image)
            asked.append(Shot(caption, index % o.seeds, number, image))
    pairs = list(drawn_clips(o.reference, *suite.size, seed + 104_729))
    videos = np.stack([video for video, _ in pairs])
    captions = tuple(caption for _, caption in pairs)
    return asked, made, Clips(videos, captions, videos[:, 0], np.zeros(len(pairs), bool))


def under_shapes(stock: Stock, suite: Suite, seed: int, folder: Path) -> dict[str, Any]:
    asked, of, reference = drawn_shots(suite, seed, folder)
    made = Clips(clips(stock, asked, suite.size), of.captions, of.first, of.given)
    scores = {name: metric.score(made, reference) for name, metric in metrics().items()}
    return {"average": average(scores), "scores": {n: s.value for n, s in scores.items()}}


def under_vbench(stock: Stock, suite: Suite, folder: Path) -> dict[str, Any]:
    """The videos in VBench's layout; then its values, where it runs or its JSON lies in `folder/results` already."""
    asked, o, python = suite.asked, suite.options, suite.options.vbench_python
    pending, fps = shots(asked, SEEDS, 0), stock.fps
    seen = vbench.as_seen(asked, folder / vbench.IMAGES, suite.size)
    vbench.describe_videos(folder, seen, pending, o.suite)
    for shot in vbench.missing(folder, pending):
        partial = folder / ".new.mp4"
        write_video(partial, stock.clip(shot, suite.size), fps, crf=vbench.CRF)
        partial.replace(folder / vbench.VIDEOS / file_name(shot.prompt, shot.number))  # whole or not at all
    wanted = expected(asked, o.suite)
    lacking = [d for d in wanted if d not in vbench.read_results(folder / vbench.RESULTS)]
    wrong = vbench.run(Path(python), o.suite, folder, str(stock.device), lacking) if lacking and python else {}
    found = vbench.read_results(folder / vbench.RESULTS)
    if not wanted.keys() <= found.keys():
        why = vbench.told(wrong) or "give --vbench-python"
        raise UserError(f"VBench's values are missing: {why}; the videos are in {folder}")
    scores = {d: found[d].value for d in wanted}
    return {"average": sum(scores.values()) / len(scores), "scores": scores}


def place_of(contestant: Contestant, suite: Suite) -> Path:
    """A folder that other weights, steps, guidance, sizes or prompts do not share."""
    weights = [[f.name, f.stat().st_size, f.stat().st_mtime] for f in sorted(contestant.folder.rglob("*.safetensors"))]
    mark = digest([weights, contestant.steps, contestant.guidance, suite.size, digest_of(suite.asked)])
    return suite.folder / f"{contestant.name}-{mark}"


def collected(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds of a pipeline's rows."""
    out = {"average": spread([r["average"] for r in rows])}
    scores = {name: [row["scores"][name] for row in rows] for name in rows[0]["scores"]}
    out["scores"] = {name: spread(values) for name, values in scores.items() if not any(map(math.isnan, values))}
    if over_theirs := averages(rows, dimensions(printed("table1"))):
        out["as_paper"] = spread(over_theirs)
    return out


def add_times(rows: Mapping[str, dict[str, Any]], first: Mapping[str, Contestant], suite: Suite) -> None:
    """Seconds a clip of each row that did not fail, round by round."""
    there = {name: contestant for name, contestant in first.items() if "average" in rows[name]}
    taken: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(suite.timing.get("rounds", 5)):
        for name in list(taken):
            try:
                own = suite.of(there[name])
                timed = shots(own.asked[:1] or [Asked("a red circle moving left")], own.timing.get("clips", 8), 0)
                taken[name].append(seconds(own.stock(there[name]), timed, own.size))
            except Exception as error:  # a stranger's pipeline; not worth a finished table
                print(f"{name} has no time: {type(error).__name__}: {error}", file=sys.stderr)
                del taken[name]
    for name, found in taken.items():
        rows[name]["seconds"] = spread(found)


def measured(folders: Sequence[tuple[Contestant, int]], suite: Suite) -> dict[str, Any]:
    """One row; `folders` says which folder stands for which seed. A pipeline may fail in any way: the row, of the
    others, says it.

    VBench's suites have five seeds of their own a prompt, so that a row is of one folder there, the first there is.
    """
    rows, about, good = [], {}, [pair for pair in folders if not pair[0].error]
    errors = [contestant.error for contestant, _ in folders if contestant.error]
    for contestant, seed in good if suite.drawn else good[:1]:
        try:
            stock, own = suite.stock(contestant), suite.of(contestant)
            if suite.drawn:
                with tempfile.TemporaryDirectory() as scratch:
                    row = under_shapes(stock, own, seed, Path(scratch))
            else:
                row = under_vbench(stock, own, place_of(contestant, own))
            about = {"parameters": stock.parameters} | stock.settings(bool(stock.folder_takes_images))
            if stock.guidance is not None:  # the family may call it otherwise
                about["guidance_scale"] = stock.guidance
            rows.append(row)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            errors.append(lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}")
    said = {"error": errors[0]} if errors else {}
    return collected(rows) | about | said if rows else said


def markdown(values: dict[str, Any]) -> str:
    rows = values["rows"]
    names = list(dict.fromkeys(n for r in rows.values() for n in r.get("scores", {})))
    names = [n for n in SCORES if n in names] + [n for n in names if n not in SCORES]
    theirs = [over("table1")] * any("as_paper" in row for row in rows.values())
    columns = ["", "steps", "guidance", "M", "s a clip", "average", *theirs, *[n.replace("_", " ") for n in names]]
    lines = ["## Pipelines (Table 1)", "", *head(columns)]
    for label, row in rows.items():
        if "average" not in row:
            lines.append(line([label, f"failed: {row['error']}", *[""] * (len(columns) - 2)]))
            continue
        cells = [str(row.get(name, "n/a")) for name in ("num_inference_steps", "guidance_scale")]
        cells += [f"{row['parameters'] / 1e6:.2f}", pair(row.get("seconds")), pair(row["average"])]
        cells += [pair(row.get("as_paper"))] * len(theirs) + [pair(row["scores"].get(n)) for n in names]
        lines.append(line([label, *cells]))
    return "\n".join([*lines, *fewer(values), "", *as_printed("table1", values["paper"])]) + "\n"


def contestants(runs: Runs, seeds: Sequence[int]) -> dict[str, list[tuple[Contestant, int]]]:
    """The scale's model and its students, each with the folder for each seed."""
    model = Path(runs.scale.base().get("model") or EMBEDDED)
    students = []
    for seed in seeds:
        folder = runs.path(OURS, seed) / "pipeline"
        why = "" if folder.exists() else runs.row(OURS, seed, whole=True)["error"]
        students.append((Contestant("ours", folder, error=why), seed))
    return {"teacher": [(Contestant("teacher", model), s) for s in seeds], "fastlightgen": students}


def first_good(pairs: Sequence[tuple[Contestant, int]]) -> Contestant:
    """Whose time stands for a row's: another seed's weights take no other."""
    return next((contestant for contestant, _ in pairs if not contestant.error), pairs[0][0])


def name_of(args: argparse.Namespace, suite: Suite) -> str:
    """Of the results: the scale, but the tiny one, and the suite, but the scale's own."""
    own = scale_of(args).read().get("evaluate", {}).get("suite", "shapes")
    parts = [args.scale] * (args.scale != "tiny") + [suite.options.suite] * (suite.options.suite != own)
    return "_".join(["table1", *parts])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--pipelines", nargs="*", default=[], metavar="NAME=FOLDER", help="what to compare")
    parser.add_argument("--suite", choices=("shapes", "vbench", "vbench-i2v"), help="the scale's own when absent")
    parser.add_argument("--manifest", type=Path, help="JSON lines of prompts and images; VBench's own when absent")
    parser.add_argument("--vbench-python", type=Path, help="python of an environment with vbench; the scale's own")
    args = parser.parse_args()
    try:
        chosen = [Contestant.read(text) for text in args.pipelines]
        suite = suite_of(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    runs = runs_of(args)
    own = [] if chosen else CELLS
    if args.list or args.dry_run:
        return plan(runs, own, args)
    try:
        check_options(suite.options, lambda text: print(text, file=sys.stderr))
        suite, wrong = replace(suite, asked=prompts(suite)), ""
        runs.run(own, args.seeds, whole=True)
    except UserError as error:
        wrong = str(error)  # of every row, and nothing is run for it
    folders = {c.name: [(c, s) for s in args.seeds] for c in chosen} or contestants(runs, args.seeds)
    rows = {name: {"error": wrong} if wrong else measured(pairs, suite) for name, pairs in folders.items()}
    add_times(rows, {name: first_good(pairs) for name, pairs in folders.items()}, suite)
    about = {"suite": suite.options.suite, "scale": args.scale, "seeds": args.seeds}
    values = about | {"runs_of": runs.commits(own, args.seeds), "rows": rows, "paper": printed("table1")}
    name = name_of(args, suite)
    if worth_writing(values, name):
        write(name, f"python -m benchmarks.table1 --scale {args.scale} --suite {suite.options.suite}", values)
        (RESULTS / f"{name}.md").write_text(markdown(values))
        picture(values, RESULTS / f"{name}.png")
    print(markdown(values))
    return int(any("error" in row for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
