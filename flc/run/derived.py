"""What a recipe's choices come to together: the student's schedule and guidance, what stage III's teacher takes for the
unpruned network, and how much of stage II comes before the blocks are chosen."""

from __future__ import annotations

from typing import Any

from flc.run.job import Job
from flc.schedule import FewStepSchedule
from flc.train.nets import leans_on_unpruned


def student_schedule(job: Job, objective: Any) -> FewStepSchedule:
    shift = objective.shift()
    return job.adapter.schedule(job.recipe.steps, job.adapter.shift if shift is None else shift, objective.sampler())


def student_guidance(job: Job) -> float:
    """Standard-form scale at which the student is sampled."""
    own: float | None = job.algorithm("distiller").guidance()
    return job.guidance if own is None else own


def real_of(job: Job, narrowed: bool = False) -> str:
    """What stage III's teacher takes for the unpruned network, `original` or `recovered`. Where `distill.real` does not
    say it is the original under a plan that narrowed, of which the incoming weights hold no unpruned view; and what
    stage II says, if it trains and no low-rank branch is asked for, which lies on the incoming weights."""
    recovery, given = job.algorithm("recovery"), job.recipe.distill.real
    if given or narrowed:
        return given or "original"
    own = recovery.trains and not leans_on_unpruned(job.algorithm("teacher"))
    return str(recovery.real()) if own else "recovered"


def iterations_before(job: Job) -> int:
    """How many of stage II's iterations come before the blocks are chosen: what the pruner asks for, half at most, and
    none where the recovery does not train with random blocks away."""
    recovery = job.algorithm("recovery")
    asked = int(job.algorithm("pruner").after()) if recovery.trains and recovery.draws else 0
    return min(asked, job.recipe.recover.iterations // 2)


def sigmas_of(job: Job) -> tuple[float, ...]:
    """The student's times, where the pruner reads them."""
    if not job.algorithm("pruner").reads_schedule():
        return ()
    return tuple(sigma for sigma in student_schedule(job, job.algorithm("distiller")).sigmas if sigma)
