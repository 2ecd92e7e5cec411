"""`--dry-run`: the plan, the kept blocks, and what the run would need; nothing is written to --out.

Memory is counted (`memory.py`), without activations; they are in the peak of the iterations that are timed. Time is
measured: of encoding, unless that is done, and of scoring; a few iterations of each combination of phases of a stage,
times how often it occurs; and one call of a network for the table. With `--ranks` all is counted, from the model's
configs: on a machine without the weights, clips and GPUs of the run.
"""

from __future__ import annotations

import copy
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as Rich
from rich.table import Table

from flc.api import Objective, Setting, TeacherComposer, View
from flc.data.latents import LatentClips
from flc.evaluate.sampling import blank, now
from flc.models.channels import narrowed
from flc.run.derived import iterations_before, student_guidance, student_schedule
from flc.run.job import Job
from flc.run.memory import bytes_of_encoders, bytes_of_stage
from flc.run.objectives import beside, said_of_pruned
from flc.run.plan import read_plan
from flc.run.stages import PIPELINE
from flc.run.stages.prepare import PREPARE, finished
from flc.run.stages.score import SCORE, Score
from flc.run.weights import load_transformer
from flc.train.stage import train_stage

SPAN = 3
"""Iterations a combination of phases is timed over, after one that is cold."""
COUNTS, MEMORY = ("iterations", "updates of the student"), "weights and optimizer, GB a rank"
TRAINED = [(stage.name, stage.kind) for stage in PIPELINE if stage.kind in ("recovery", "distiller")]
Teacher = tuple[TeacherComposer, View]


def bound(job: Job, name: str, kind: str, pruned: View) -> tuple[Any, Teacher | None]:
    """A stage's objective as it would begin, and its teacher where it has one."""
    stage, objective = getattr(job.recipe, name), job.algorithm(kind)
    schedule = student_schedule(job, objective) if kind == "distiller" else None
    full, before = View(job.prunable.full), iterations_before(job) if kind == "recovery" else 0
    objective.bind(Setting(pruned, full, job.recipe.steps, stage.iterations - before, schedule, stage.given_share))
    return objective, (job.algorithm("teacher"), pruned) if kind == "distiller" else None


def columns(*names: str) -> Table:
    table = Table(title="estimate")
    for name in ("stage", *names):
        table.add_column(name, justify="left" if name == "stage" else "right")
    return table


def trains(objective: Any, iterations: int) -> bool:
    return bool(objective.trains and iterations)


def counts(objective: Any, iterations: int) -> tuple[str, str]:
    """Of `COUNTS`."""
    return (str(iterations), str(objective.updates(iterations))) if trains(objective, iterations) else ("0", "0")


def say_pruned(job: Job, objective: Any, show: Callable[[str], None]) -> None:
    """How much of stage II is the pruned network's, with a warning where it is little."""
    said, few = said_of_pruned(job, objective)
    if said:
        show(said)
    if few:
        job.console.warn(few)


def count(job: Job) -> None:
    """Print what configs alone say: every block is as good as another, so the first ones stand for those removed."""
    show, weights = Rich().print, job.budget.weights
    kept = job.budget.select({s: list(range(len(w))) for s, w in weights.items()})
    pruned, ranks = View(kept), job.ranks.world
    whole = sum(p.numel() for p in job.adapter.transformer.parameters())
    blocks = ", ".join(f"{s}: {len(kept[s])} of {len(w)} blocks stay" for s, w in weights.items())
    show(f"{job.model_folder.name}: {whole / 1e9:.2f} billion parameters; latents of a clip {job.latent_shape}")
    show(f"{blocks} ({job.budget.share(kept):.0%} of their parameters); which, {job.recipe.pruner.name} decides")
    table = columns(*COUNTS, "samples a rank and iteration", MEMORY)
    for name, kind in TRAINED:
        stage, (objective, teacher) = getattr(job.recipe, name), bound(job, name, kind, pruned)
        if not trains(objective, stage.iterations):
            table.add_row(name, *counts(objective, stage.iterations), "", "")
            continue
        if kind == "recovery":
            say_pruned(job, objective, show)
        memory = bytes_of_stage(job, objective, None, teacher is not None)
        table.add_row(name, *counts(objective, stage.iterations), str(stage.batch // ranks), f"{memory / 1e9:.2f}")
    show(table)
    show("counted as if whole blocks were removed: a pruner that narrows layers leaves more of them, each smaller")
    show("not in it: encoders, autoencoder, activations, and under ZeRO-3 the blocks that are gathered")
    from_configs = "from the model's configs; nothing was loaded, scored, timed or written"
    show(f"counted for {ranks} ranks in {job.recipe.dtype} {from_configs}")


def dry_run(job: Job, scratch: Path) -> None:
    """Score in a scratch folder, then print."""
    trial, show = replace(job, out=scratch), Rich(quiet=not job.ranks.leader).print
    vars(trial).update({name: vars(job)[name] for name in ("adapter", "prunable") if name in vars(job)})
    device, began = job.adapter.device, time.perf_counter()
    there = job.ranks.agreed(lambda: str(finished(job) or ""))
    data = Path(there) if there else PREPARE.run(trial, {})
    encoded = now(device)
    scored = bool(there) and job.ranks.agreed(lambda: SCORE.lies_done(job, {"data": data}))
    plan = read_plan(trial, SCORE.place(job) if scored else Score(trial=True).run(trial, {"data": data}))
    before = {"encode": encoded - began, "score": now(device) - encoded}
    weights, pruned, channels = job.budget.weights, View(plan["kept"]), plan["channels"]
    show(f"plan ({job.recipe.pruner.name}): {plan['share']:.0%} of block parameters stay")
    if (before_plan := iterations_before(job)) and not scored:
        show(f"  (of the model as it is: the run chooses them after the first {before_plan} iterations of stage II)")
    for stack, blocks in plan["kept"].items():
        gone = [i for i in range(len(weights[stack])) if i not in blocks]
        show(f"  {stack}: keep {list(blocks)}, remove {gone}")
        if channels is not None:
            show(f"  {stack}: {len(channels[stack][0])} of {job.budget.ffn[stack][0]} channels of feed-forward layers")
    table, total = columns(*COUNTS, "s/iteration", "minutes", MEMORY), sum(before.values()) / 60
    for name, seconds in before.items():
        table.add_row(name, "", "", "", f"{seconds / 60:.1f}", "")
    for name, kind in TRAINED:
        stage, (objective, teacher) = getattr(job.recipe, name), bound(job, name, kind, pruned)
        if not trains(objective, stage.iterations):
            table.add_row(name, *counts(objective, stage.iterations), "", "", "")
            continue
        if kind == "recovery":
            say_pruned(job, objective, show)
        with job.parked(True):
            seconds = seconds_of_stage(trial, name, objective, data, plan, teacher) / stage.iterations
        memory, minutes = bytes_of_stage(job, objective, channels, teacher is not None), seconds * stage.iterations / 60
        total += minutes
        timed = counts(objective, stage.iterations)
        table.add_row(name, *timed, f"{seconds:.2f}", f"{minutes:.1f}", f"{memory / 1e9:.2f}")
    calls, seconds = evaluation(job, data)
    total += calls * seconds / 60
    table.add_row("evaluate", str(calls), "", f"{seconds:.2f}", f"{calls * seconds / 60:.1f}", "")
    show(table)
    others, most = bytes_of_encoders(job) / 1e9, peak(job.adapter.device) / 1e9
    show(f"not in it: autoencoder, and encoders while they encode, on every rank, {others:.2g} GB; activations")
    show(f"peak of this process while it timed: {most:.2f} GB ({job.adapter.device.type})")
    show(f"about {total:.0f} minutes, on {device} in {job.recipe.dtype}; nothing was written")


def peak(device: torch.device) -> int:
    """The most memory this process has held so far, in bytes: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds_of_stage(
    job: Job, name: str, objective: Objective, data: Path, plan: dict[str, Any],
    teacher: Teacher | None,
) -> float:  # fmt: skip
    """Of all its iterations: each combination of phases that occurs is timed, from the model's own weights."""
    options = getattr(job.recipe, name)
    quick = {"iterations": 1 + SPAN, "check_every": 0}
    short = options.model_copy(update={k: v for k, v in quick.items() if k in type(options).model_fields})
    latents = LatentClips(data, job.adapter, job.recipe.negative_prompt)
    total, occurring = 0.0, Counter(objective.phases(step) for step in range(options.iterations))
    for number, (phases, count) in enumerate(occurring.items()):
        only = copy.copy(objective)
        only.phases = lambda step, phases=phases: phases  # type: ignore[method-assign, misc]
        whole = load_transformer(job, job.model_folder)
        source, unpruned = narrowed(job.adapter, whole, plan["channels"]), whole if plan["channels"] else None
        if teacher and not beside(job, objective.roles(), plan["channels"] is not None):
            unpruned = None
        elif teacher and unpruned is None:
            unpruned = load_transformer(job, job.model_folder)
        stamps: list[float] = []
        train_stage(
            job, name, only, source, latents, short, job.out / f"{name}-{number}", teacher, unpruned,
            trial=lambda stamps=stamps: stamps.append(now(job.adapter.device)),  # type: ignore[misc]
        )  # fmt: skip
        total += count * (stamps[-1] - stamps[0]) / SPAN
    return total


def calls_of_table(job: Job) -> int:
    """Batched evaluations of networks on one rank: two a step where a row is guided. VBench's suites share the clips
    of a row among ranks."""
    o, few = job.recipe.evaluate, job.recipe.steps
    teacher, student = (1 if scale == 1 else 2 for scale in (job.guidance, student_guidance(job)))
    many = teacher * o.teacher_steps
    steps = {"teacher-many": many, "teacher-few-guided": teacher * few, "teacher-few": few, "pruned": many,
             "recovered": many, "student": student * few}  # fmt: skip
    ranks = 1 if o.suite == "shapes" else job.ranks.world
    return sum(steps[name] for name in job.rows) * -(-job.clips_of_a_row // (o.batch * ranks))


def evaluation(job: Job, data: Path) -> tuple[int, float]:
    """Batched network calls of the table, and seconds of one."""
    o = job.recipe.evaluate
    x = torch.randn(o.batch, *job.latent_shape, device=job.adapter.device)
    cond = blank(job.adapter, o.batch, job.size)
    t = torch.full((o.batch,), 0.5, device=job.adapter.device)
    module: Any = job.adapter.transformer
    with torch.no_grad():
        job.adapter.velocity(module, module, x, t, cond)
        began = now(job.adapter.device)
        job.adapter.velocity(module, module, x, t, cond)
    return calls_of_table(job), now(job.adapter.device) - began
