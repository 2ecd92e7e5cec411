"""VBench's suites over the rows of a run: `OUT/<suite>/<row>/` with videos and results, then the table of `evaluate/`.

The videos are a stage per row, which goes on video by video and is kept while the row's network, prompts and size stay
the same; with several ranks each samples a share of them, with a network of its own. VBench may run here
(`evaluate.vbench_python`) or elsewhere: what counts is its JSON in a row's `results/`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flc.data.video import read_video
from flc.evaluate import lpips, vbench
from flc.evaluate.manifest import digest, shots
from flc.evaluate.suite import document
from flc.evaluate.vbench_layout import SEEDS, expected, file_name
from flc.models.folder import read_json
from flc.run.folders import run_stage
from flc.run.job import Job

if TYPE_CHECKING:
    from flc.run.rows import Entry


def fps(job: Job) -> int:
    return job.recipe.evaluate.fps or job.adapter.fps_of(job.model_folder)


def measure(job: Job, table: list[Entry], inputs: dict[str, Path]) -> str:
    """Write `evaluate/` with the suite's table; empty, or why none of its values could be had. One that could not is
    n/a there, with the reason as its note. The videos are there in any case; what comes after them is the leader's."""
    suite = job.recipe.evaluate.suite
    rows: dict[str, Path] = {entry.name: job.out / suite / entry.name for entry in table}
    for entry in table:
        write_videos(job, entry, rows[entry.name], inputs)
    if not job.ranks.leader:
        return ""
    wrong = {name: reasons for name, folder in rows.items() if (reasons := measure_row(job, name, folder))}
    said = [f"VBench did not measure {name}'s {vbench.told(reasons)}{hint(reasons)}" for name, reasons in wrong.items()]
    there = f"The videos are in {job.out / suite}; with VBench's JSON in ROW/results, run with --resume"
    if wrong and not any(vbench.read_results(folder / vbench.RESULTS) for folder in rows.values()):
        return f"{said[0]}. {there}"
    for text in said:
        job.console.warn(f"{text}. {there}")
    write_table(job, rows, wrong)
    return ""


def write_videos(job: Job, entry: Entry, folder: Path, inputs: dict[str, Path]) -> None:
    r, o, ranks = job.recipe, job.recipe.evaluate, job.ranks
    wanted = shots(job.asked, SEEDS, r.seed)
    own = wanted[ranks.rank :: ranks.world]
    options = {"suite": o.suite, "asked": digest(job.asked), "seed": r.seed, "size": job.size, "dtype": r.dtype,
               "steps": entry.steps, "guidance": entry.guidance, "title": entry.title, "fps": fps(job),
               "negative_prompt": r.negative_prompt}  # fmt: skip

    def work(place: Path) -> None:
        if ranks.leader:
            asked = vbench.as_seen(job.asked, job.out / o.suite / vbench.IMAGES, job.size)
            vbench.describe_videos(place, asked, wanted, o.suite)
        ranks.barrier()
        left = len(vbench.missing(place, own))
        with job.console.bar(f"videos of {entry.name}", -(-left // o.batch) * entry.steps) as bar:
            sampled = (job.size, r.negative_prompt, o.batch, fps(job))
            with job.parked(entry.own):
                vbench.write_videos(job.adapter, entry.row(), own, place, *sampled, bar.advance, ranks.rank)
        ranks.barrier()

    needed = {k: v for k, v in inputs.items() if k in ("model", *entry.needs)}
    run_stage(folder, options, needed, work, ranks)
    ranks.barrier()


def measure_row(job: Job, name: str, folder: Path) -> dict[str, str]:
    """Have VBench measure what a row lacks; why, of each dimension that is still missing."""
    o = job.recipe.evaluate

    def lacking() -> list[str]:
        found = vbench.read_results(folder / vbench.RESULTS)
        return [d for d in expected(job.asked, o.suite) if d not in found]

    pending = lacking()
    if not pending:
        return {}
    python = vbench.python_of(o)
    if python is None:
        text = f"evaluate.vbench_python is not set: {vbench.INSTALL}, then {vbench.OPTION}"
        return dict.fromkeys(pending, text)
    job.console.say(f"VBench: {len(pending)} dimensions of {name}, log in {folder / vbench.RESULTS / 'log.txt'}")
    with job.parked(True):
        torch.cuda.empty_cache()  # what torch keeps for itself VBench, a process of its own, could not take
        wrong = vbench.run(python, o.suite, folder, job.recipe.device, pending)
    return {d: wrong.get(d, vbench.NO_VALUE) for d in lacking()}


def hint(reasons: dict[str, str]) -> str:
    """Where weights belong, if it is their download that failed: VBench opens addresses, and starts wget."""
    words = ("OSError", "URLError", "HTTPError", "Connection", "FileNotFoundError", "CalledProcessError")
    fetching = any(word in reason for reason in reasons.values() for word in words)
    return ": its weights belong into ~/.cache/vbench or $VBENCH_CACHE_DIR" if fetching else ""


def write_table(job: Job, rows: dict[str, Path], wrong: dict[str, dict[str, str]]) -> None:
    """`evaluate/`: metrics.json of VBench's values, and a few of the videos for the report. `wrong`: of a row that
    lacks values, why, of each."""
    r, o = job.recipe, job.recipe.evaluate
    made, wanted = shots(job.asked, SEEDS, r.seed), expected(job.asked, o.suite)
    shown = range(0, len(made), max(1, len(made) // max(1, o.videos)))[: o.videos]

    def work(folder: Path) -> None:
        results = []
        for name, place in rows.items():
            found = vbench.read_results(place / vbench.RESULTS)
            row = vbench.result_row(read_json(place / vbench.ROW), found, wanted, wrong.get(name, {}))
            for dimension in filter(found.get, row["notes"]):
                job.console.warn(f"{name}: {dimension} is over {row['notes'][dimension]}")
            results.append(row)
            (folder / "videos" / name).mkdir(parents=True, exist_ok=True)  # a table may be cut off, by LPIPS
            for index in shown:
                video = place / vbench.VIDEOS / file_name(made[index].prompt, made[index].number)
                shutil.copy(video, folder / "videos" / name / f"{index}.mp4")
        asked = [{"caption": s.prompt, "seed": s.seed, "given": s.image is not None} for s in made]
        more = {"pairs": [lpips_of(job, rows)] if o.lpips else []}
        text = json.dumps(document(o.suite, results, vbench.described(o.suite), asked, r.seed, **more), indent=1)
        (folder / "metrics.json").write_text(text)

    options = {"suite": o.suite, "rows": list(rows), "videos": o.videos, "lpips": o.lpips}
    inputs = {name: place for name, place in rows.items()}
    for name, place in rows.items():
        found = sorted((place / vbench.RESULTS).glob("*_eval_results.json"))
        inputs |= {f"{name}/{path.name}": path for path in found}
    run_stage(job.out / "evaluate", options, inputs, work)


def lpips_of(job: Job, rows: dict[str, Path]) -> dict[str, Any]:
    """Between the videos as they were written."""
    metric = lpips.load(job.recipe.evaluate.lpips or "", job.adapter.device)
    names = [file_name(s.prompt, s.number) for s in shots(job.asked, SEEDS, job.recipe.seed)]
    pairs = ([read_video(rows[row] / vbench.VIDEOS / name, *job.size) for row in lpips.ROWS] for name in names)
    return lpips.pair(metric, ((a, b) for a, b in pairs))
