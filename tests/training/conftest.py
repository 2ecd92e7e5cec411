"""A trainable stage in miniature: the embedded adapter, five random blocks, a few random latents."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from flc.api import Batch, Setting, View
from flc.draws import StepDraws
from flc.models.condition import Condition
from flc.registry import create
from flc.train.engine import PlainEngine
from flc.train.loop import LoopOptions, train
from flc.train.nets import TEACHER, UNPRUNED, build, connect

PRUNED = View({"blocks": (0, 2, 4)})
FULL = View({"blocks": (0, 1, 2, 3, 4)})
#: Of 40 blocks: 28 stay, as 70 % of Wan-14B's do.
DEEP = View({"blocks": tuple(i for i in range(40) if i % 10 not in (2, 5, 8))})


class Miniature:
    """One objective with everything around it; `run` trains in a folder."""

    def __init__(
        self, adapter: Any, source: torch.nn.Module, kind: str, name: str, options: dict[str, Any],
        teacher: tuple[str, dict[str, Any]] = ("well-guided", {}), pruned: View = PRUNED, parts: int = 1,
        unpruned: torch.nn.Module | None = None,
    ):  # fmt: skip
        full = View({"blocks": tuple(range(len(source.blocks)))})
        self.adapter, self.source, self.parts, self.batch = adapter, adapter.prepare(source), parts, 4 // parts
        self.objective = create(kind, name, options)
        schedule = adapter.schedule(4, 5.0, "sde") if kind == "distiller" else None
        self.objective.bind(Setting(pruned, full, 4, 100, schedule))
        self.roles = self.objective.roles()
        self.modules = build(adapter, self.source, self.roles, 0, unpruned)
        everything = self.modules | {TEACHER: self.source} | ({UNPRUNED: unpruned} if unpruned is not None else {})
        self.engine = PlainEngine(everything, self.roles, parts, adapter.stacks)
        composed = (create("teacher", *teacher), pruned) if kind == "distiller" else None
        self.nets = connect(adapter, everything, self.roles, self.engine.call, composed)
        g = torch.Generator().manual_seed(5)
        self.latents, self.text = torch.randn(16, 16, 3, 4, 4, generator=g), torch.randn(16, 6, 64, generator=g)
        self.null = torch.randn(1, 1, 64, generator=g)

    def batch_at(self, draws: StepDraws) -> Batch:
        rows, given = draws.integers(self.batch, 16), draws.uniform(self.batch) < 0.5
        x0 = self.latents[rows]
        return Batch(x0, Condition(self.text[rows], self.null, x0[:, :, :1], given))

    def run(
        self, folder: Path, iterations: int, save_every: int = 2, log_every: int = 1, on_step: Any = None
    ) -> list[dict[str, float]]:
        log: list[dict[str, float]] = []
        options = LoopOptions("test", iterations, seed=3, save_every=save_every, log_every=log_every, parts=self.parts)

        def note(step: int, metrics: dict[str, float]) -> None:
            log.append(metrics)
            if on_step is not None:
                on_step(step, metrics)

        self.cost = train(self.objective, self.nets, self.engine, self.batch_at, options, folder, note)
        return log

    def weights(self) -> dict[str, torch.Tensor]:
        """Of everything that an iteration may change: trained roles, followers, averages."""
        out = {f"{r}.{n}": p.detach().clone() for r, ps in self.engine.parameters.items() for n, p in ps.items()}
        followers = [r for r, role in self.roles.items() if role.train == "follow"]
        out |= {f"{r}.{n}": p.detach().clone() for r in followers for n, p in self.modules[r].named_parameters()}
        for role, average in self.engine.averages.items():
            out |= {f"{role}.ema.{n}": v.clone() for n, v in average.values.items()}
        return out


DMD = {"lr": 1e-3, "ratio": 2, "fake_warmup": 1}
CASES = {
    "bernoulli": ("recovery", "bernoulli", {"lr": 1e-3, "warmup": 2, "drift_every": 2}),
    "bernoulli-data": ("recovery", "bernoulli", {"lr": 1e-3, "alpha": 0.5, "anchor": "shared", "draw": "set"}),
    "bernoulli-muon": ("recovery", "bernoulli", {"lr": 1e-3, "warmup": 2, "drift_every": 2, "matrices": 0.01}),
    "dmd": ("distiller", "dmd", DMD),
    "dmd-muon": ("distiller", "dmd", DMD | {"matrices": 0.01, "fake_matrices": 0.02}),
    "dmd-lora": ("distiller", "dmd", DMD | {"fake": "lora", "rank": 4}),
    "dmd-original": ("distiller", "dmd", DMD),
    "dmd-unpruned-fake": ("distiller", "dmd", DMD | {"fake_init": "unpruned", "normalise": False}),
    "dmd2": ("distiller", "dmd2", DMD | {"regression": 0.25, "regression_steps": 2}),
    "lcm": ("distiller", "lcm", {"lr": 1e-3, "warmup": 2, "grid": 8}),
    "magic": ("distiller", "magic", DMD | {"rank": 4}),
    "codmd": ("distiller", "codmd", DMD),
    "icmd": ("recovery", "icmd", {"lr": 1e-3, "warmup": 2}),
    "sft": ("recovery", "sft", {"lr": 1e-3, "warmup": 2}),
}


def recovered(original: torch.nn.Module) -> torch.nn.Module:
    """What a stage II may have made of a network."""
    module, g = copy.deepcopy(original), torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return module


@pytest.fixture
def miniature(adapter, make_wan):
    def make(
        case: str, dtype: torch.dtype = torch.float32, teacher: Any = ("well-guided", {}), pruned: View | None = None,
        parts: int = 1, blocks: int = 5, **more: Any,
    ) -> Miniature:  # fmt: skip
        kind, name, options = CASES[case]
        chosen = pruned or (PRUNED if blocks == 5 else DEEP)
        source, unpruned = make_wan(blocks).to(dtype), None
        if case.endswith("original"):
            unpruned, source = adapter.prepare(source), recovered(source)
        return Miniature(adapter, source, kind, name, options | more, teacher, chosen, parts, unpruned)

    return make


@pytest.fixture(params=list(CASES))
def case(request):
    return request.param
