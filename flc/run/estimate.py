"""`--dry-run`: the plan, the kept blocks, and what the run would need; nothing is written to --out.

Memory is counted (weights, gradients, Adam's moments, averages, by role); what activations take is measured
where the system tells. Time is measured: one iteration of each trained stage, one call of each row of the table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import print as show
from rich.table import Table

from flc.api import Role, Setting, View
from flc.evaluate.sampling import now
from flc.run import stages
from flc.run.job import Job


def bytes_of_role(parameters: int, role: Role, width: int) -> int:
    """Weights; for a trained role gradients and two float32 moments, for an averaged one its average."""
    total = parameters * width if role.train == "full" else 0
    if role.optim:
        total += parameters * (width + 8)
    return total + (parameters * width if role.ema else 0)


def kept_parameters(weights: Mapping[str, tuple[int, ...]], view: View) -> int:
    return sum(sum(w[i] for i in (view.kept or {}).get(s, range(len(w)))) for s, w in weights.items())


def dry_run(job: Job, scratch: Path) -> None:
    """Score in a scratch folder, then print."""
    trial = replace(job, out=scratch)
    data = stages.prepare(trial)
    scored = stages.score(trial, data)
    plan = stages.read_plan(scored)
    weights, recipe = job.budget.weights, job.recipe
    full, pruned = View(job.prunable.full), View(plan["kept"])
    share = kept_parameters(weights, pruned) / kept_parameters(weights, full)
    show(f"plan ({recipe.pruner.name}): {share:.0%} of block parameters stay")
    for stack, blocks in plan["kept"].items():
        gone = [i for i in range(len(weights[stack])) if i not in blocks]
        show(f"  {stack}: keep {list(blocks)}, remove {gone}")
    table = Table(title="estimate")
    for column in ("stage", "iterations", "s/iteration", "minutes", "weights and optimizer, GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total = 0.0
    for name, kind, stage in (("recover", "recovery", recipe.recover), ("distill", "distiller", recipe.distill)):
        objective = job.algorithm(kind)
        schedule = stages.student_schedule(job, objective) if kind == "distiller" else None
        objective.bind(Setting(pruned, full, recipe.steps, stage.iterations, schedule, stage.given_share))
        seconds = seconds_of_iteration(trial, name, kind, data, scored) if getattr(objective, "trains", True) else 0.0
        rest = sum(p.numel() for p in job.adapter.transformer.parameters()) - kept_parameters(weights, full)
        width = job.adapter.dtype.itemsize
        memory = width * (rest + kept_parameters(weights, full))
        for role in objective.roles().values():
            memory += bytes_of_role(rest + kept_parameters(weights, role.view), role, width)
        minutes = seconds * stage.iterations / 60
        total += minutes
        row = (name, str(stage.iterations), f"{seconds:.2f}", f"{minutes:.1f}", f"{memory / 1e9:.2f}")
        table.add_row(*row)
    calls, seconds = evaluation(job, data)
    total += calls * seconds / 60
    table.add_row("evaluate", str(calls), f"{seconds:.2f}", f"{calls * seconds / 60:.1f}", "")
    show(table)
    show(f"about {total:.0f} minutes after encoding and scoring, on {job.adapter.device}; nothing was written")


def seconds_of_iteration(job: Job, name: str, kind: str, data: Path, scored: Path) -> float:
    """Measured over a whole cycle of phases, after one to warm up."""
    span = 6
    recipe = job.recipe
    stage = getattr(recipe, name).model_copy(update={"iterations": span, "save_every": span + 1})
    choice = getattr(recipe, kind)
    short = recipe.model_copy(update={name: stage, kind: choice})
    job = replace(job, recipe=short)
    began = time.perf_counter()
    if name == "recover":
        stages.recover(job, data, scored)
    else:
        stages.distill(job, data, scored, job.out / "recover" if (job.out / "recover").exists() else job.model_folder)
    return (time.perf_counter() - began) / span


def evaluation(job: Job, data: Path) -> tuple[int, float]:
    """Batched network calls of the table, and seconds of one."""
    o, few = job.recipe.evaluate, job.recipe.steps
    calls = (3 * o.teacher_steps * 2 + 4 * few) * -(-o.clips // o.batch)
    x = torch.randn(o.batch, *job.latent_shape, device=job.adapter.device)
    cond = job.adapter.condition([""] * o.batch)
    t = torch.full((o.batch,), 0.5, device=job.adapter.device)
    module: Any = job.adapter.transformer
    with torch.no_grad():
        job.adapter.velocity(module, module, x, t, cond)
        began = now(job.adapter.device)
        job.adapter.velocity(module, module, x, t, cond)
    return calls, now(job.adapter.device) - began
