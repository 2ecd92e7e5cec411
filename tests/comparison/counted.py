"""What a cell's stages cost in block evaluations, counted on a network of as many blocks that is narrow and untrained.

Each combination of phases of a stage is run a few times and multiplied by how often it occurs; weights stay as they
are, which no count depends on.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch

from benchmarks.cells import Cell, Scale
from flc.api import Batch, Budget, Sample, Setting, View
from flc.draws import StepDraws
from flc.models.condition import Condition
from flc.models.prunable import Prunable
from flc.registry import create
from flc.train.engine import PlainEngine
from flc.train.nets import TEACHER, UNPRUNED, asks_for_unpruned, build, connect

CLIPS, ITERATIONS = 16, 8


class Counted:
    def __init__(self, adapter: Any, wan: Any) -> None:
        self.adapter, self.wan, self.full = adapter, adapter.prepare(wan), View({"blocks": tuple(range(10))})

    def batch(self, step: int) -> Batch:
        g = torch.Generator().manual_seed(step)
        x0, text = torch.randn(CLIPS, 16, 1, 2, 2, generator=g), torch.randn(CLIPS, 2, 64, generator=g)
        return Batch(x0, Condition(text, torch.zeros(1, 1, 64), x0[:, :, :1], torch.arange(CLIPS) % 2 == 0))

    def plan(self, recipe: Any) -> tuple[View, float]:
        """What the pruner leaves of it, and what it looked at. A short recovery before it changes no count of its."""
        model, weights = Prunable(self.adapter, self.wan, sigmas=(1.0, 0.9, 0.75, 0.5)), {"blocks": (1,) * 10}
        budget = Budget(recipe.keep, weights)
        pruner = create("pruner", recipe.pruner.name, recipe.pruner.options)

        def batches(count: int) -> Any:
            for step in range(-(-count // CLIPS)):
                b = self.batch(step)
                yield Sample(b.x0, torch.randn_like(b.x0), torch.full((CLIPS,), 0.5), b.cond)

        if before(recipe):
            pruner.removable(model, batches, budget)
        return View(pruner.plan(model, batches, budget).kept), model.evaluations

    def stage(self, recipe: Any, kind: str, pruned: View, iterations: int, draw: Any = None) -> float:
        name = "recover" if kind == "recovery" else "distill"
        objective = create(kind, getattr(recipe, kind).name, getattr(recipe, kind).options)
        if not objective.trains or not iterations:
            return 0.0
        schedule = self.adapter.schedule(recipe.steps, 3.0, objective.sampler()) if name == "distill" else None
        objective.bind(Setting(pruned, self.full, recipe.steps, iterations, schedule, draw=draw))
        roles, source, composer = objective.roles(), copy.deepcopy(self.wan), None
        unpruned = copy.deepcopy(self.wan)
        modules = build(self.adapter, source, roles, 0, unpruned)
        if name == "distill":
            composer = (create("teacher", recipe.teacher.name, recipe.teacher.options), pruned)
            modules[TEACHER] = source
            if asks_for_unpruned(composer[0]):
                modules[UNPRUNED] = unpruned
        engine = PlainEngine(modules, roles, stacks=self.adapter.stacks)
        nets, total = connect(self.adapter, modules, roles, engine.call, composer), 0.0
        steps: dict[tuple[str, ...], list[int]] = {}
        for step in range(iterations):
            steps.setdefault(objective.phases(step), []).append(step)
        occurring = Counter({phases: len(found) for phases, found in steps.items()})
        for phases, count in occurring.items():
            few, nets.evaluations.count = steps[phases][:: max(1, count // ITERATIONS)][:ITERATIONS], 0
            for step in few:
                nets.rng = StepDraws(0, name, step)
                for phase in phases:
                    engine.activate(phase)
                    with nets.evaluations.counting():
                        objective.loss(phase, nets, self.batch(step), step, nets.rng).value.backward()
            total += count * nets.evaluations.count / CLIPS / len(few)
        return total

    def of(self, cell: Cell, scale: Scale) -> dict[str, float]:
        recipe = cell.at(scale, 0)
        pruned, score = self.plan(recipe)
        first = before(recipe)
        budget = Budget(recipe.keep, {"blocks": (1,) * 10})
        removable = {"blocks": tuple(range(1, 10))}
        score += self.stage(recipe, "recovery", pruned, first, lambda rng: View(budget.at_random(rng, removable)))
        return {
            "score": score,
            "recover": self.stage(recipe, "recovery", pruned, recipe.recover.iterations - first),
            "distill": self.stage(recipe, "distiller", pruned, recipe.distill.iterations),
        }


def before(recipe: Any) -> int:
    """Iterations of stage II before the blocks are chosen."""
    recovery = create("recovery", recipe.recovery.name, recipe.recovery.options)
    asked = create("pruner", recipe.pruner.name, recipe.pruner.options).after()
    return min(asked, recipe.recover.iterations // 2) if recovery.trains and recovery.draws else 0
