"""A trainable stage of a run: networks, engine and loop put together, and the student written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flc.api import Batch, Objective, StepDistiller, TeacherComposer, View
from flc.data.latents import LatentClips
from flc.draws import StepDraws
from flc.recipe import RecoverStage, TrainStage
from flc.train.engine import Engine, PlainEngine
from flc.train.health import Health, Samples, Velocities, at_once
from flc.train.loop import CHECKPOINTS, LOG, LoopOptions, checkpoint_path, train
from flc.train.nets import TEACHER, UNPRUNED, RoleNet, asks_for_unpruned, build, connect


def make_engine(job: Any, modules: dict[str, nn.Module], roles: Any, local_batch: int, parts: int) -> Engine:
    if job.recipe.engine == "plain":
        return PlainEngine(modules, roles, parts, job.adapter.stacks)
    from flc.train.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(modules, roles, job.zero, local_batch, job.recipe.offload, parts)


def train_stage(
    job: Any,
    name: str,
    objective: Objective,
    source: nn.Module,
    data: LatentClips,
    options: TrainStage,
    folder: Path,
    teacher: tuple[TeacherComposer, View] | None,
    unpruned: nn.Module | None = None,
    trial: Callable[[], None] | None = None,
    before: int = 0,
    after: int = 0,
) -> dict[str, Any]:
    """Train `objective` from `source`; writes `transformer/` and `log.jsonl` into `folder`. Returns facts.

    `unpruned`: the original network, where `source` is not that itself (narrowed, or trained before). `trial` is called
    after each iteration of one that is made for its time, of which no weights are written. `before` and `after`:
    iterations of the same training in other stages.
    """
    roles, adapter, world = objective.roles(), job.adapter, job.ranks.world
    local = options.batch // (world * options.accumulate)  # `Job.check` has seen that it divides
    job.ranks.barrier()  # the leader has cleared or made `folder` before another rank looks into it
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(parents=True, exist_ok=True)
    health = None if trial else health_of(job, objective, source, unpruned, data, options, checkpoints)
    if job.recipe.engine == "deepspeed" and job.zero == 3:  # copies are made where they are not in each other's way
        for module in filter(None, (source, unpruned)):
            module.to("cpu")
    modules = build(adapter, source, roles, job.recipe.seed, unpruned)
    networks = {role: module for role, module in modules.items() if roles[role].train != "head"}
    if options.checkpointing:
        for module in {id(m): m for m in networks.values()}.values():
            module.enable_gradient_checkpointing()  # type: ignore[operator]
    everything = modules | ({TEACHER: source} if teacher else {})
    if teacher and unpruned is not None and asks_for_unpruned(teacher[0]):
        everything[UNPRUNED] = unpruned
    engine = make_engine(job, everything, roles, local, options.accumulate)
    nets = connect(adapter, everything, roles, engine.call, teacher)
    resumed = checkpoint_path(checkpoints)
    if resumed is not None:
        job.console.say(f"{name}: resuming from {resumed.name}")
    watch = Watch(job, name, options, health, nets["student"], engine)
    every = 0 if trial else options.save_every
    loop = LoopOptions(
        name, options.iterations, job.recipe.seed, every, options.log_every, options.decay, options.accumulate,
        before, after,
    )  # fmt: skip
    with job.console.bar(f"{name} ({type(objective).__name__})", options.iterations) as bar:

        def on_step(step: int, metrics: dict[str, float]) -> None:
            losses = {k: v for k, v in metrics.items() if k.endswith("loss")}
            bar.at(step, " ".join(f"{k.removesuffix('/loss')} {v:.3g}" for k, v in losses.items()))
            watch(step)
            if trial:
                trial()

        drop_text = options.drop_text if isinstance(options, RecoverStage) else 0.0

        def batch_at(draws: StepDraws) -> Batch:
            return data.random_batch(draws, local, options.given_share, drop_text)

        watch.begin()
        cost = train(objective, nets, engine, batch_at, loop, checkpoints, on_step)
    for module in {id(m): m for m in networks.values()}.values():
        module.disable_gradient_checkpointing()  # type: ignore[operator]  # they may serve elsewhere in this process
    state = None if trial else engine.export("student")
    state = watch.rescued() or state
    if job.ranks.leader and not trial:
        assert state is not None
        if (checkpoints / LOG).exists():
            shutil.copy(checkpoints / LOG, folder / LOG)
        write_weights(modules["student"], state, folder / "transformer")
    engine.close()
    return {
        "seconds": cost.seconds,
        "iterations": options.iterations,
        "block_evaluations": cost.evaluations / options.batch,
        "updates": objective.updates(options.iterations),
        "health": health.record()["last"] if health else {},
    }


def write_weights(like: Any, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """A transformer's folder with these weights, not those that `like` holds at the moment: `save_pretrained` knows
    only the latter, which are not averaged and, sharded, are empty."""
    with torch.device("meta"):
        written = type(like).from_config(like.config)
    written.load_state_dict(state, assign=True)
    written.save_pretrained(folder)


def health_of(
    job: Any, objective: Objective, source: nn.Module, unpruned: nn.Module | None, data: LatentClips,
    options: TrainStage, folder: Path,
) -> Health | None:  # fmt: skip
    """What a stage is watched by, made before its networks leave the device or lie in shards; None where it is not, or
    where there is nothing to recover."""
    setting, adapter, clips = objective.setting, job.adapter, options.check_clips
    if not options.check_every or not options.iterations:
        return None
    if setting.schedule is not None:
        rows = torch.arange(clips) % len(data)
        batch = data.batch(rows, torch.zeros(len(rows), dtype=torch.bool))
        assert isinstance(objective, StepDistiller)
        own = objective.guidance()
        return Samples(batch, setting.schedule, adapter.decode, folder, job.guidance if own is None else own)
    if setting.pruned.kept == setting.full.kept and unpruned is None:
        return None
    few = at_once(data.batch(torch.arange(1), None).x0)
    original = source if unpruned is None else unpruned
    samples = data.samples(clips, few, job.recipe.seed, adapter.shift, options.given_share)
    return Velocities(samples, RoleNet(adapter, original, original, View()), setting.pruned, folder)


class Watch:
    """Looks at the student every `check_every` iterations and at the end; says what is wrong, keeps the best."""

    def __init__(
        self, job: Any, name: str, options: TrainStage, health: Health | None, student: RoleNet, engine: Engine
    ) -> None:
        self.job, self.name, self.student, self.engine, self.health = job, name, student, engine, health
        self.every, self.end = options.check_every, options.iterations

    def begin(self) -> None:
        """Look at the weights that the stage begins with, once, where they may be its best."""
        if self.health is None or not self.health.from_start:
            return
        if self.engine.any(self.job.ranks.leader and self.health.record()["step"] < 0):
            self.look(0)

    def __call__(self, step: int) -> None:
        if self.health is not None and (step % self.every == 0 or step == self.end):
            self.look(step)

    def look(self, step: int) -> None:
        assert self.health is not None
        leader = self.job.ranks.leader
        found = self.health.check(self.student)
        said = self.health.warning(found) if leader else None
        if said:
            self.job.console.warn(f"{self.name} at iteration {step}: {said}")
        # every rank takes part in collecting the weights, so the leader's word decides
        best = self.engine.any(leader and self.health.is_best(found))
        state = self.engine.export("student", averaged=False) if best else None  # those that were looked at
        if leader:
            self.health.remember(step, found, state)

    def rescued(self) -> dict[str, Any] | None:
        """The best weights when the run collapsed; on the leader, which writes them."""
        found = self.health.rescue() if self.health is not None and self.job.ranks.leader else None
        if found is None:
            return None
        step, state = found
        text = f"{self.name} collapsed; the weights of iteration {step}, its best, are handed on"
        self.job.console.warn(f"{text}: lower its learning rates")
        return state
