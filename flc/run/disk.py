"""Disk that a run needs, before its first stage."""

from __future__ import annotations

import shutil
from collections.abc import Collection

import torch

from flc.errors import UserError
from flc.models.folder import numbers
from flc.run.derived import iterations_before
from flc.run.fingerprints import DONE
from flc.run.folders import nearest_existing
from flc.run.job import Job
from flc.run.stages import STAGES


def disk_needed(job: Job, stages: Collection[str]) -> int:
    """Bytes at the least: transformers of the stages that are not done, and the student's pipeline; while one of
    them trains, a copy's float32 weights, moments and average, twice, and the best weights (a checkpoint is written
    beside the one before it; the best weights are, too, but not at the same time, and are smaller)."""
    r, transformer = job.recipe, job.model_folder / "transformer"
    count, before = numbers(transformer), iterations_before(job) if "score" in stages else 0
    whole = count * getattr(torch, r.dtype).itemsize
    small = round(r.keep * whole)
    files = (f for f in job.model_folder.rglob("*.safetensors") if not f.is_relative_to(transformer))
    written = {"score": whole if before else 0, "prune": small, "recover": whole, "distill": small}
    written["export"] = small + sum(f.stat().st_size for f in files)
    left = [name for name in stages if not (STAGES[name].place(job) / DONE).exists()]
    states, training = 2 * (4 + 8 + 4) * count, 0
    recovers = job.algorithm("recovery").trains and r.recover.iterations
    if ("score" in left and before) or ("recover" in left and recovers):
        training = states + whole * bool(r.recover.check_every)
    if "distill" in left and job.algorithm("distiller").trains and r.distill.iterations:
        training = max(training, states + small * bool(r.distill.check_every))
    return sum(written.get(stage, 0) for stage in left) + training


def check_disk(job: Job, stages: Collection[str]) -> None:
    need, free = disk_needed(job, stages), shutil.disk_usage(nearest_existing(job.out)).free
    if free < need:
        raise UserError(f"--out {job.out} has {free / 1e9:.3g} GB of disk, about {need / 1e9:.3g} GB are needed")
