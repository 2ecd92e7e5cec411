"""The stages of a run, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flc.run.job import Job
from flc.run.stage import Stage
from flc.run.stages.distill import DISTILL
from flc.run.stages.evaluate import EVALUATE
from flc.run.stages.export import EXPORT
from flc.run.stages.prepare import PREPARE
from flc.run.stages.prune import PRUNE
from flc.run.stages.recover import RECOVER
from flc.run.stages.report import REPORT
from flc.run.stages.score import SCORE

PIPELINE: tuple[Stage, ...] = (PREPARE, SCORE, PRUNE, RECOVER, DISTILL, EXPORT, EVALUATE, REPORT)
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in PIPELINE}


def places(job: Job, stage: Stage, given: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Where a stage's inputs lie: the user's own folders, by input, and else those of OUT."""
    return {name: (given or {}).get(name, STAGES[made_by].place(job)) for name, made_by in stage.reads.items()}


def until(last: str | None) -> Sequence[Stage]:
    """All stages, or those up to the one after which a run stops; KeyError if that is none."""
    return PIPELINE if last is None else PIPELINE[: PIPELINE.index(STAGES[last]) + 1]
