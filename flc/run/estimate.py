"""`--dry-run`: the plan, the kept blocks, and what the run would need; nothing is written to --out.

Memory is counted, for one rank and by role: weights, gradients, Adam's moments, masters, averages. Activations are
not; they are in the peak of the iterations that are timed. Time is measured: a few iterations of each combination of
phases of a stage, times how often it occurs, and one call of a network for the table.
"""

from __future__ import annotations

import copy
import resource
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as Rich
from rich.table import Table
from torch import nn

from flc.api import Budget, Channels, Objective, Role, Setting, TeacherComposer, View
from flc.data.latents import LatentClips
from flc.evaluate.sampling import now
from flc.models.channels import narrowed
from flc.run import stages
from flc.run.job import Job
from flc.train.nets import LORA_TARGETS
from flc.train.stage import train_stage

SPAN = 4
"""Iterations a combination of phases is timed over, the first of them cold."""


@dataclass(frozen=True)
class Sharing:
    """Among how many ranks each part of a role lies, by ZeRO stage: optimizer from 1, gradients from 2, weights and
    averages from 3; 0 is the plain engine."""

    zero: int = 0
    world: int = 1

    def ranks(self, stage: int) -> int:
        return self.world if self.zero >= stage else 1


def bytes_of_role(parameters: int, trained: int, role: Role, width: int, sharing: Sharing) -> int:
    """A copy's weights, or a head's; for a trained role gradients, two float32 moments, float32 masters where the
    weights are not (deepspeed keeps them always), and a float32 average where it keeps one or is one."""
    total = parameters * width // sharing.ranks(3) if role.train in ("full", "follow", "head") else 0
    if role.optim:
        masters = 4 if width < 4 or sharing.zero else 0
        total += trained * width // sharing.ranks(2) + trained * (8 + masters) // sharing.ranks(1)
    return total + (trained * 4 // sharing.ranks(3) if role.ema else 0)


def lora_parameters(job: Job, role: Role) -> int:
    """Of an adapter on every block (a view's skipped blocks hold one, too): rank (in + out) for each layer."""
    layers = (
        module
        for stack in job.adapter.stacks
        for block in job.prunable.stack(stack)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(LORA_TARGETS))
    )
    return sum(role.rank * (layer.in_features + layer.out_features) for layer in layers)


def head_parameters(job: Job, role: Role) -> int:
    assert role.head is not None
    with torch.device("meta"):
        return sum(p.numel() for p in role.head(job.adapter.width(job.adapter.transformer)).parameters())


def kept_parameters(weights: Mapping[str, tuple[int, ...]], view: View) -> int:
    return sum(sum(w[i] for i in (view.kept or {}).get(s, range(len(w)))) for s, w in weights.items())


def dry_run(job: Job, scratch: Path) -> None:
    """Score in a scratch folder, then print."""
    trial, show = replace(job, out=scratch), Rich(quiet=not job.ranks.leader).print
    data = stages.prepare(trial)
    plan = stages.read_plan(trial, stages.score(trial, data))
    weights, pruned, channels = job.budget.weights, View(plan["kept"]), plan["channels"]
    show(f"plan ({job.recipe.pruner.name}): {plan['share']:.0%} of block parameters stay")
    for stack, blocks in plan["kept"].items():
        gone = [i for i in range(len(weights[stack])) if i not in blocks]
        show(f"  {stack}: keep {list(blocks)}, remove {gone}")
        if channels is not None:
            show(f"  {stack}: {len(channels[stack][0])} of {job.budget.ffn[stack][0]} channels of feed-forward layers")
    table = Table(title="estimate")
    for column in (
        "stage",
        "iterations",
        "updates of the student",
        "s/iteration",
        "minutes",
        "weights and optimizer, GB a rank",
    ):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total = 0.0
    for name, kind in (("recover", "recovery"), ("distill", "distiller")):
        stage, objective = getattr(job.recipe, name), job.algorithm(kind)
        schedule = stages.student_schedule(job, objective) if kind == "distiller" else None
        full = View(job.prunable.full)
        objective.bind(Setting(pruned, full, job.recipe.steps, stage.iterations, schedule, stage.given_share))
        teacher = (job.algorithm("teacher"), pruned) if kind == "distiller" else None
        trains = objective.trains and stage.iterations
        seconds = seconds_of_stage(trial, name, objective, data, plan, teacher) / stage.iterations if trains else 0.0
        memory, minutes = bytes_of_stage(job, objective, channels, teacher is not None), seconds * stage.iterations / 60
        total += minutes
        counts = [str(stage.iterations), str(objective.updates(stage.iterations) if trains else 0)]
        table.add_row(name, *counts, f"{seconds:.2f}", f"{minutes:.1f}", f"{memory / 1e9:.2f}")
    calls, seconds = evaluation(job, data)
    total += calls * seconds / 60
    table.add_row("evaluate", str(calls), "", f"{seconds:.2f}", f"{calls * seconds / 60:.1f}", "")
    show(table)
    others, most = bytes_of_encoders(job) / 1e9, peak(job.adapter.device) / 1e9
    show(f"not in it: text encoder and autoencoder on every rank, {others:.2g} GB; activations")
    show(f"peak of this process while it timed: {most:.2f} GB ({job.adapter.device.type})")
    show(f"about {total:.0f} minutes after encoding and scoring, on {job.adapter.device}; nothing was written")


def bytes_of_encoders(job: Job) -> int:
    """The components that are not compressed, as they lie in the model's folder: they stay on the device all the
    time."""
    files = job.model_folder.rglob("*.safetensors")
    return sum(f.stat().st_size for f in files if f.parent.name != "transformer")


def peak(device: torch.device) -> int:
    """The most memory this process has held so far, in bytes: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def narrower(budget: Budget, channels: Channels | None) -> Mapping[str, tuple[int, ...]]:
    """Parameters of each block with these channels."""
    if channels is None:
        return budget.weights
    gone = {s: (n - len(channels[s][0])) * each for s, (n, each) in budget.ffn.items()}
    return {s: tuple(w - gone[s] for w in blocks) for s, blocks in budget.weights.items()}


def frozen_networks(
    objective: Objective, counts: tuple[int, int], narrowed: bool, taught: bool
) -> list[tuple[int, bool]]:
    """Parameters of the networks that a stage holds beside its trained copies, and whether ZeRO-3 shards them: those
    that a role or the teacher evaluates, unless gradients pass through them. `counts`: of the original, and of what
    was narrowed from it."""
    roles = objective.roles().values()
    passes, frozen = any(r.passes for r in roles), any(r.train == "frozen" for r in roles)
    lora = any(r.train == "lora" for r in roles)
    if not narrowed:
        return [(counts[0], (taught or frozen or lora) and not passes)]
    return [(counts[0], (taught or frozen) and not passes), (counts[1], taught or lora)]


def bytes_of_stage(job: Job, objective: Objective, channels: Channels | None, taught: bool) -> int:
    """On one rank: frozen networks, and every role's own. (A GPU holds nothing else: the model's own transformer is
    parked while another one is distilled.)"""
    zero = job.zero if job.recipe.engine == "deepspeed" else 0
    sharing, weights, width = Sharing(zero, job.ranks.world), narrower(job.budget, channels), job.adapter.dtype.itemsize
    whole = sum(p.numel() for p in job.adapter.transformer.parameters())
    rest = whole - kept_parameters(job.budget.weights, View())
    counts = (whole, rest + kept_parameters(weights, View()))
    networks = frozen_networks(objective, counts, channels is not None, taught)
    memory = sum(width * count // (sharing.ranks(3) if sharded else 1) for count, sharded in networks)
    roles = objective.roles()
    for role in roles.values():
        if role.train == "head":
            count = head_parameters(job, role)
            memory += bytes_of_role(count, count, role, 4, sharing)
            continue
        count = rest + kept_parameters(weights, roles[role.of].view if role.of else role.view)
        trained = lora_parameters(job, role) if role.train == "lora" else count
        memory += bytes_of_role(count, trained, role, width, sharing)
    return memory


def seconds_of_stage(
    job: Job, name: str, objective: Objective, data: Path, plan: dict[str, Any],
    teacher: tuple[TeacherComposer, View] | None,
) -> float:  # fmt: skip
    """Of all its iterations: each combination of phases that occurs is timed, from the model's own weights."""
    options = getattr(job.recipe, name)
    quick = {"iterations": SPAN, "save_every": SPAN + 1, "check_every": 0}
    short = options.model_copy(update={k: v for k, v in quick.items() if k in type(options).model_fields})
    latents = LatentClips(data, job.adapter, job.recipe.negative_prompt)
    total, occurring = 0.0, Counter(objective.phases(step) for step in range(options.iterations))
    for number, (phases, count) in enumerate(occurring.items()):
        only = copy.copy(objective)
        only.phases = lambda step, phases=phases: phases  # type: ignore[method-assign, misc]
        whole = stages.load_transformer(job, job.model_folder)
        source, unpruned = narrowed(job.adapter, whole, plan["channels"]), whole if plan["channels"] else None
        place = job.out / f"{name}-{number}"
        facts = train_stage(job, name, only, source, latents, short, place, teacher, unpruned)
        total += count * facts["seconds"] / SPAN
    return total


def evaluation(job: Job, data: Path) -> tuple[int, float]:
    """Batched network calls of the table, and seconds of one."""
    o, few = job.recipe.evaluate, job.recipe.steps
    calls = (3 * o.teacher_steps * 2 + 4 * few) * -(-job.clips_of_a_row // o.batch)
    x = torch.randn(o.batch, *job.latent_shape, device=job.adapter.device)
    cond = job.adapter.condition([""] * o.batch)
    t = torch.full((o.batch,), 0.5, device=job.adapter.device)
    module: Any = job.adapter.transformer
    with torch.no_grad():
        job.adapter.velocity(module, module, x, t, cond)
        began = now(job.adapter.device)
        job.adapter.velocity(module, module, x, t, cond)
    return calls, now(job.adapter.device) - began
