"""What the trained stages ask of their algorithms before anything runs. A plugin's fault is said with its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flc.api import Objective, Role, Setting, View
from flc.errors import PluginError, UserError
from flc.models.view import blocks_at
from flc.registry import Kind, registry
from flc.run.derived import iterations_before, real_of, student_schedule
from flc.run.job import Job
from flc.train.nets import asks_for_unpruned, check_apart, check_teacher, is_unpruned

#: Of a recovery's iterations those that train the pruned network itself are warned of when they are a smaller share.
RARE = 0.1


def named(kind: Kind, name: str) -> str:
    return f"{kind} {name!r} from {registry().find(kind, name).origin}"


def failed(said: str, error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{said} failed: {type(error).__name__}: {lines[0]} (--debug shows where)"


def check_objectives(job: Job, planned: Collection[str]) -> None:
    """What a trainable stage would refuse at its start, before the first stage; the plan is not known yet, so that
    half of each stack stands for it."""
    r, full = job.recipe, View(job.prunable.full)
    pruned = View({stack: blocks[: max(1, len(blocks) // 2)] for stack, blocks in job.prunable.full.items()})
    kinds: tuple[tuple[str, Kind, View], ...] = (("recover", "recovery", full), ("distill", "distiller", pruned))
    for name, kind, handed_on in kinds:
        objective, options = job.algorithm(kind), getattr(r, name)
        if name not in job.trained_in(planned) or not objective.trains:
            continue
        schedule = student_schedule(job, objective) if kind == "distiller" else None
        objective.bind(Setting(pruned, full, r.steps, options.iterations, schedule, options.given_share))
        roles = checked_roles(named(kind, getattr(r, kind).name), objective, options.iterations, handed_on, full)
        for role in roles.values():
            blocks_at(role.depths, sum(map(len, job.prunable.full.values())))
        if kind == "distiller":
            check_teacher(job.algorithm("teacher"), roles)
            check_real(job, roles)
        if r.engine == "deepspeed":
            check_deepspeed(job, kind, objective, roles)


def said_before(job: Job) -> list[str]:
    """What a pruner asks of stage II before it scores, and does not get."""
    r, asked, given = job.recipe, int(job.algorithm("pruner").after()), iterations_before(job)
    if given == asked:
        return []
    asks = f"--pruner {r.pruner.name} asks for {asked} iterations of stage II before it scores"
    if given:
        return [f"{asks} and is given {given}, half of recover.iterations={r.recover.iterations}"]
    return [f"{asks}: --recovery {r.recovery.name} does not train so, and blocks are scored on the model as it is"]


def said_of_pruned(job: Job, objective: Any) -> tuple[str, str]:
    """In how many iterations of a bound recovery the pruned network itself is trained, and a warning where they are
    few; nothing where the recovery does not say."""
    name, total = job.recipe.recovery.name, objective.setting.iterations
    try:
        count = objective.pruned_iterations()
        if count is None or not total:
            return "", ""
        number = f"{count:.0f}" if count >= 10 else f"{count:.2g}"
    except Exception as error:
        raise PluginError(failed(named("recovery", name), error)) from error
    said = f"stage II ({name}) trains the pruned network itself in about {number} of {total} iterations"
    few = f"{said}, and stage III starts from it: give {objective.rare} (flc show {name})"
    return said, few if count < RARE * total else ""


def beside(job: Job, roles: Mapping[str, Role], narrowed: bool) -> bool:
    """Whether stage III holds the model's own network beside the weights that it begins with: it is the unpruned one,
    and the teacher or a role evaluates that."""
    return real_of(job, narrowed) == "original" and evaluates_unpruned(job, roles)


def evaluates_unpruned(job: Job, roles: Mapping[str, Role]) -> bool:
    frozen = any(is_unpruned(role, job.prunable.full) for role in roles.values())
    return frozen or asks_for_unpruned(job.algorithm("teacher"))


def check_real(job: Job, roles: Mapping[str, Role]) -> None:
    """The option `distill.real`, as far as the plan has no say."""
    real = job.recipe.distill.real
    if real and not evaluates_unpruned(job, roles):
        name = job.recipe.teacher.name
        job.console.warn(f"distill.real={real} has no effect: --teacher {name} asks for no unpruned network")
    elif real == "original":
        check_apart(job.algorithm("teacher"))


def checked_roles(said: str, objective: Objective, iterations: int, handed_on: View, full: View) -> Mapping[str, Role]:
    """The networks of a bound objective. Its student has the blocks that its stage hands on."""
    try:
        roles = objective.roles()
        phases = {phase for step in range(iterations) for phase in objective.phases(step)}
    except (UserError, OSError):
        raise
    except Exception as error:
        raise PluginError(failed(said, error)) from error
    student = roles.get("student")
    if student is None or student.train != "full":
        raise PluginError(f"{said}: roles() must have a 'student' that is trained in full")
    for phase in sorted(phases):
        if phase not in roles or roles[phase].optim is None:
            raise PluginError(f"{said}: phases() names {phase!r}, which is no role with an optimizer")
    if (student.view.kept or full.kept) != handed_on.kept:
        stage = "II hands on the whole network" if handed_on == full else "III hands on the pruned network"
        view = "full" if handed_on == full else "pruned"
        raise PluginError(f"{said}: stage {stage}: the student's view must be setting.{view}")
    return roles


def check_deepspeed(job: Job, kind: Kind, objective: Objective, roles: Mapping[str, Role]) -> None:
    from flc.train.deepspeed import check_optim

    name = getattr(job.recipe, kind).name
    if job.zero not in objective.zero:
        stages = " or ".join(map(str, objective.zero))
        raise UserError(f"--{kind} {name} trains with deepspeed under --zero {stages} only, not under {job.zero}")
    if job.zero == 3 and any(r.passes for r in roles.values()) and any(r.train == "lora" for r in roles.values()):
        # the network with the adapter is sharded, and of one that gradients pass through deepspeed loses count
        raise UserError(
            f"--{kind} {name} trains a LoRA on a network that gradients pass through, which deepspeed cannot shard: "
            f"use --zero 2, or let its fake network be whole"
        )
    for role in roles.values():
        check_optim(role.optim)
