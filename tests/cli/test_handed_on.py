"""The weights that a stage hands on are those of its files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from flc.train.engine import PlainEngine
from flc.train.stage import Watch
from tests.cli.small import SMALL

SETS = [
    part
    for key, value in (SMALL | {"recovery.ema": 0.9, "pruner.after": 0}).items()
    for part in ("--set", f"{key}={value}")
]


@pytest.fixture
def exported(monkeypatch):
    """What the engine made of its student at each stage's end: (averaged, as it was trained)."""
    out, export = [], PlainEngine.export

    def kept(self, role, averaged=True):
        if not averaged:
            return export(self, role, averaged)
        out.append((export(self, role), export(self, role, averaged=False)))
        return out[-1][0]

    monkeypatch.setattr(PlainEngine, "export", kept)
    return out


def written(stage):
    return load_file(stage / "transformer" / "diffusion_pytorch_model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_averages_are_handed_on_and_after_a_collapse_the_best_weights(flc, place, exported, monkeypatch):
    code, _, err = flc("compress", "--out", "run", "--until", "recover", *SETS)
    assert code == 0, err
    [(averaged, trained)] = exported
    assert same(written(place / "run" / "recover"), averaged) and not same(averaged, trained)

    best = []

    def rescued(self):
        best.append({n: v + 1 for n, v in exported[-1][0].items()})
        return best[-1]

    monkeypatch.setattr(Watch, "rescued", rescued)
    code, _, err = flc("compress", "--out", "run", "--until", "distill", "--resume", *SETS)
    assert code == 0, err
    assert same(written(place / "run" / "distill"), best[0])
