"""One plain loop for stages II and III."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flc.api import Batch, Loss, Objective
from flc.draws import StepDraws
from flc.errors import Interrupted, PluginError, UserError
from flc.files import LIST, parse_json, read_bytes, read_text, sync, sync_tree, write_text
from flc.train.engine import Engine
from flc.train.nets import RoleNets

CHECKPOINTS, LATEST, STATE, LOG = "checkpoints", "latest", "state.json", "log.jsonl"
NAME = re.compile(r"step-\d+")
"""Of a checkpoint."""


@dataclass(frozen=True)
class LoopOptions:
    stage: str
    iterations: int
    seed: int
    save_every: int = 100
    """0: never."""
    log_every: int = 10
    decay: bool = False
    """Linear decay of every learning rate to zero over the last half."""
    parts: int = 1
    """How many parts this rank's share of a batch is taken in."""
    before: int = 0
    """Iterations that the same training had before these, in another stage."""
    after: int = 0
    """Iterations that the same training has after these."""


@dataclass(frozen=True)
class Cost:
    """What a training took, over all its sittings."""

    seconds: float = 0.0
    evaluations: int = 0
    """Block evaluations of single clips (`BlockEvaluations`), on all ranks."""


Window = dict[str, tuple[float, int]]
"""Of each metric, since the last line of the log: the sum of its values, and how many they are."""


class Stopper:
    """Set by a signal handler; the loop saves and raises at the next iteration's end."""

    signal: int | None = None
    looping = False

    @contextmanager
    def in_loop(self) -> Iterator[None]:
        """A signal waits for the iteration's end; after the loop, however that ended, it stops the program at once."""
        self.looping = True
        try:
            yield
        finally:
            self.looping = False


STOP = Stopper()


def checkpoint_path(folder: Path) -> Path | None:
    """The newest whole checkpoint; `UserError` when the pointer names one that is not there."""
    pointer = folder / LATEST
    if not pointer.exists():
        return None
    name = read_text(pointer).strip()
    if not NAME.fullmatch(name) or not (folder / name / STATE).exists():
        raise UserError(f"{pointer} names {name:.20}, which is missing: delete {folder} to start this stage again")
    return folder / name


def save_checkpoint(folder: Path, engine: Engine, step: int, cost: Cost, window: Window) -> None:
    """Written under a temporary name, synced, renamed; the pointer last; then older ones are removed.

    Every rank writes its part between the first two barriers. None leaves before the last one: a launcher that
    sees a rank exit (after a signal) kills the others, which must not cut the leader off before the pointer.
    """
    temporary = folder / f".step-{step:07d}"
    if engine.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    engine.barrier()
    engine.save(temporary)
    engine.barrier()
    if engine.rank == 0:
        publish(folder, temporary, step, cost, window)
    engine.barrier()


def publish(folder: Path, temporary: Path, step: int, cost: Cost, window: Window) -> None:
    name = f"step-{step:07d}"
    write_text(temporary / STATE, json.dumps({"step": step, **asdict(cost), "window": window}))
    sync_tree(temporary)
    if (folder / LOG).exists():  # its lines up to this step are not written again
        sync(folder / LOG)
    shutil.rmtree(folder / name, ignore_errors=True)
    temporary.rename(folder / name)
    sync(folder)
    write_text(folder / LATEST, name)
    for old in folder.glob("step-*"):
        if old.name != name:
            shutil.rmtree(old)


def restore(folder: Path, engine: Engine) -> tuple[int, Cost, Window]:
    """The step to go on from, what it took to get there, and what is measured since the last line of the log; lines of
    iterations that will be repeated are dropped."""
    path = checkpoint_path(folder)
    step, cost, window = 0, Cost(), Window()
    if path is not None:
        step, cost, window = read_state(path / STATE, f"delete {folder} to start this stage again")
        engine.load(path)
    log = folder / LOG
    if engine.rank == 0 and log.exists():
        try:
            lines = read_bytes(log, LIST).decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise UserError(f"{log} cannot be read ({error.strerror}): move it away to go on without it") from error
        write_text(log, "".join(f"{line}\n" for line in lines if 0 < step_of(line) <= step))
    return step, cost, window


def read_state(path: Path, way_out: str) -> tuple[int, Cost, Window]:
    try:
        state = parse_json(read_text(path))
        step = int(state["step"])
        if missing := {"seconds", "evaluations", "window"} - state.keys():
            text = f"{path} has no {', '.join(sorted(missing))}, so another version of flc wrote it"
            raise UserError(f"{text}: go on with that version, or {way_out}")
        window = {str(name): (float(total), int(count)) for name, (total, count) in state["window"].items()}
        return step, Cost(float(state["seconds"]), int(state["evaluations"])), window
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged: {way_out}") from error


def step_of(line: str) -> int:
    """The iteration that a line of the log is of; 0 of one that was cut off."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, TypeError, KeyError):
        return 0


def lr_factor(step: int, options: LoopOptions, warmup: int) -> float:
    """Moments begin anew with each stage, and so does the warm-up; the decay is that of the whole training."""
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    total = options.before + options.iterations + options.after
    return factor * min(1.0, 2 * (total - options.before - step) / total) if options.decay else factor


def write_log(folder: Path, step: int, window: Window) -> None:
    """Means since the last line, each over the iterations that measured it: some are rare, and none is lost."""
    means = {name: total / count for name, (total, count) in window.items()}
    with open(folder / LOG, "a") as log:
        log.write(json.dumps({"step": step, **means}) + "\n")


def mean_of(losses: Sequence[Loss]) -> dict[str, float]:
    """The loss and every metric, each over the parts of a batch that have it."""
    found: dict[str, list[float]] = {}
    for loss in losses:
        for name, value in {"loss": float(loss.value.detach()), **loss.metrics}.items():
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}


def loss_of(objective: Objective, phase: str, nets: RoleNets, batch: Batch, step: int, draws: StepDraws) -> Loss:
    """Of an algorithm, by whose name is said what is wrong with it. Memory that runs out is none of its faults."""
    place = f"{type(objective).__module__}.{type(objective).__qualname__}.loss({phase!r}, ...)"
    try:
        loss: object = objective.loss(phase, nets, batch, step, draws)
    except (UserError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise PluginError(f"{place} failed: {type(error).__name__}: {lines[0]} (--debug shows where)") from error
    if not isinstance(loss, Loss):
        raise PluginError(f"{place} returned {type(loss).__name__}, not an flc.api.Loss")
    if loss.value.numel() != 1:
        raise PluginError(f"{place} is of shape {tuple(loss.value.shape)}, not one number: take its mean")
    if not loss.value.requires_grad:
        why = "nothing in it was computed by a network that is trained, or it was under torch.no_grad"
        raise PluginError(f"{place} has no gradient: {why}")
    return loss


def train(
    objective: Objective,
    nets: RoleNets,
    engine: Engine,
    batch_at: Callable[[StepDraws], Batch],
    options: LoopOptions,
    folder: Path,
    on_step: Callable[[int, dict[str, float]], Any],
) -> Cost:
    """Run `options.iterations` iterations of an objective, resuming from `folder` when it holds a checkpoint.

    `batch_at(draws)` is this rank's batch of an iteration, or a part of it: a part draws what a rank of its own would.
    `on_step(step, metrics)` sees every iteration. What it does itself counts as no block evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder.parent)
    roles = objective.roles()
    step, before, window = restore(folder, engine)
    began, nets.evaluations.count = time.monotonic() - before.seconds, 0

    def cost() -> Cost:
        return Cost(time.monotonic() - began, before.evaluations + engine.total(nets.evaluations.count))

    with STOP.in_loop():
        while step < options.iterations:
            first, world = engine.rank * options.parts, engine.world * options.parts
            draws = [StepDraws(options.seed, options.stage, step, first + part, world) for part in range(options.parts)]
            batches = [batch_at(own) for own in draws]
            metrics: dict[str, float] = {}
            for phase in objective.phases(step):
                engine.activate(phase)
                optim = roles[phase].optim
                assert optim is not None, f"phase {phase!r} names a role that is not trained"
                losses = []
                for own, batch in zip(draws, batches, strict=True):
                    nets.rng = own
                    with nets.evaluations.counting():
                        losses.append(loss_of(objective, phase, nets, batch, step, own))
                        engine.backward(phase, losses[-1].value)
                factor = lr_factor(step, options, optim.warmup)
                metrics[f"{phase}/grad_norm"] = engine.step(phase, factor)
                metrics |= {f"{phase}/{k}": v for k, v in mean_of(losses).items()}
            step += 1
            for name, value in metrics.items():
                total, count = window.get(name, (0.0, 0))
                window[name] = total + value, count + 1
            if step % options.log_every == 0 or step == options.iterations:
                if engine.rank == 0:
                    write_log(folder, step, window)
                window.clear()
            on_step(step, metrics)  # before the checkpoint: a run resumed from it does not look at this iteration again
            stop = engine.any(STOP.signal is not None)  # all ranks stop at the same step, whichever was signalled
            if options.save_every and (step % options.save_every == 0 or step == options.iterations or stop):
                save_checkpoint(folder, engine, step, cost(), window)
            if stop:
                raise Interrupted(STOP.signal or signal.SIGTERM)
    taken = cost()
    if engine.any(STOP.signal is not None):  # it came while the last iteration was being saved
        raise Interrupted(STOP.signal or signal.SIGTERM)
    return taken
