"""The suite of drawn shapes over the rows of a run: `evaluate/` with clips of every row and `metrics.json`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flc.data.source import write_video
from flc.errors import UserError
from flc.evaluate import lpips
from flc.evaluate.clips import Clips
from flc.evaluate.manifest import digest, shots
from flc.evaluate.metrics import AVERAGE
from flc.evaluate.sampling import condition, generate, make_prompts, prompts_of
from flc.evaluate.suite import asked_for, described, document, score_row
from flc.models.folder import EMBEDDED, EMBEDDED_NAME
from flc.registry import registry
from flc.run.fingerprints import ClipsOf
from flc.run.folders import run_stage
from flc.run.job import Job
from flc.run.rows import Entry
from flc.run.sources import clips


def draws(job: Job) -> bool:
    """Whether the model was trained on drawn clips only: the embedded one, or a student of it."""
    embedded = job.model_folder.resolve() == EMBEDDED.resolve() or job.adapter.notes.get("base_model") == EMBEDDED_NAME
    return embedded and not job.recipe.data


def measure_shapes(job: Job, table_of: Callable[[], list[Entry]], inputs: dict[str, Path | ClipsOf]) -> None:
    """Our metrics, on the manifest's prompts where the suite was asked for, else on captions of the data's clips."""
    r, o = job.recipe, job.recipe.evaluate
    options = {"guidance": job.guidance, "seed": r.seed, "size": job.size, "dtype": r.dtype}
    options |= o.model_dump(exclude={"manifest", "vbench_python", "vbench_data", "fps"})
    options |= {"negative_prompt": r.negative_prompt, "metrics": registry().names("metric"), "averaged": AVERAGE}
    asked = shots(job.asked, o.seeds, r.seed) if o.suite == "shapes" else []
    options |= {"asked": digest(job.asked) if asked else None, "begin": r.prepare.clips if r.data else 0}

    def work(folder: Path) -> None:
        if asked:
            prompts = prompts_of(asked, *job.size[1:])
        else:
            real = clips(job, -(-o.clips // o.seeds), r.seed + 7919, r.prepare.clips)
            prompts = make_prompts(list(real), o.seeds, job.given_share, r.seed)
        cond = condition(job.adapter, prompts, r.negative_prompt, job.size[0])
        reference, fps = drawn_reference(job, o.reference), job.adapter.fps_of(job.model_folder)
        results, compared = [], {}
        table = table_of()
        calls = sum(entry.steps for entry in table) * -(-len(prompts.seeds) // o.batch)
        with job.console.bar("evaluate", calls) as bar:
            for entry in table:
                with job.parked(entry.own):
                    row = entry.row()
                    made, seconds = generate(job.adapter, row, prompts, cond, job.latent_shape, o.batch, bar.advance)
                results.append(score_row(row, made, reference, seconds))
                if o.lpips and row.name in lpips.ROWS:
                    compared[row.name] = made.video
                place = folder / "videos" / row.name
                place.mkdir(parents=True, exist_ok=True)
                for index in shown(prompts.given, o.videos):
                    write_video(place / f"{index}.mp4", made.video[index], fps, 4 if job.size[1] < 128 else 1)
                del row, made  # its network and its clips go before the next one's come
        more: dict[str, Any] = {"instead_of": o.suite} if o.suite != "shapes" else {}
        if compared:
            metric = lpips.load(o.lpips or "", job.adapter.device)
            more["pairs"] = [lpips.pair(metric, zip(*(compared[row] for row in lpips.ROWS), strict=True))]
        values = document("shapes", results, described(), asked_for(prompts), r.seed, **more)
        (folder / "metrics.json").write_text(json.dumps(values, indent=1))

    run_stage(job.out / "evaluate", options, inputs, work)


def shown(given: np.ndarray, count: int) -> list[int]:
    """Indices of the clips written as videos: half with a given first frame where there are any, all where there are
    no others."""
    with_image, without = np.flatnonzero(given)[::2], np.flatnonzero(~given)[::2]
    half = min(len(with_image), count // 2 if len(without) else count)
    return sorted([*with_image[:half].tolist(), *without[: count - half].tolist()])


def drawn_reference(job: Job, count: int) -> Clips:
    """Clips that the metrics compare with, from a seed of their own: drawn, or the user's."""
    r = job.recipe
    pairs = list(clips(job, count, r.seed + 104_729, r.prepare.clips + -(-r.evaluate.clips // r.evaluate.seeds)))
    videos = np.stack([v for v, _ in pairs])
    return Clips(videos, tuple(c for _, c in pairs), videos[:, 0], np.zeros(len(pairs), bool))


#: Bytes of a clip's pixel: three float32 colours; beside them its difference from the background, and the mask.
VIDEO, MEASURED = 12, 8
#: What metrics take beside them for a moment: 8 % were measured on 32 clips of 33 frames of 240 x 416.
WORK = 1.1
#: Where Linux tells how much memory a container may have.
LIMIT = Path("/sys/fs/cgroup/memory.max")


def bytes_held(job: Job) -> int:
    """Bytes of the machine's memory while a row is scored: its clips and those that they are compared with, as they
    are measured; with LPIPS, the clips of the first row that it compares, too."""
    o = job.recipe.evaluate
    compared = VIDEO * job.clips_of_a_row if o.lpips else 0
    scored = WORK * (VIDEO + MEASURED) * (job.clips_of_a_row + o.reference)
    return round(math.prod(job.size) * (scored + compared))


def memory_of_machine() -> float:
    """Bytes of this machine's memory, or of the container's that this process is in."""
    try:
        whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return math.inf
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else ""
    return min(whole, float(limit)) if limit.isdecimal() else whole


def check_memory(job: Job) -> None:
    """Refuse a table, days of training before it, that this machine's memory cannot hold."""
    o, (frames, height, width) = job.recipe.evaluate, job.size
    need, there = bytes_held(job), memory_of_machine()
    if o.suite == "shapes" and need > there:
        raise UserError(
            f"the shapes suite holds a row's {job.clips_of_a_row} clips and {o.reference} to compare them with in "
            f"memory, {need / 1e9:.3g} GB at {frames} frames of {height} x {width}, and this machine has "
            f"{there / 1e9:.3g} GB: give fewer, as in --set evaluate.clips=8 --set evaluate.reference=8, or --set "
            "evaluate.suite=vbench, which reads its clips from files"
        )
