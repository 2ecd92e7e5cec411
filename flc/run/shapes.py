"""The suite of drawn shapes over the rows of a run: `evaluate/` with clips of every row and `metrics.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flc.data.source import write_video
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
            drawn = list(clips(job, -(-o.clips // o.seeds), r.seed + 7919, r.prepare.clips))
            prompts = make_prompts(drawn, o.seeds, job.given_share, r.seed)
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
                del row  # its network goes before the next one comes
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
