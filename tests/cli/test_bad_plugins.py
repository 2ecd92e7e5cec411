"""Plugins that go wrong: one line on stderr that names it, exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from flc.api import Algorithm, Loss, Optim, PrunePlan, Pruner, RecoveryTrainer, Role
from flc.api import Options as Base
from flc.errors import UserError
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.wan import WanAdapter
from flc.registry import Provided, Registry, registry

PLUGINS = Path(__file__).parents[1] / "plugins"

pytestmark = pytest.mark.usefixtures("place")


def test_a_broken_plugin_by_name(refused, unloaded, monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS / "hook_error"))
    registry.cache_clear()
    try:
        line = refused("compress", "--out", "run", "--teacher", "half-told")
    finally:
        monkeypatch.undo()
        registry.cache_clear()
    assert "flc-hook-error 1.0" in line and "the table of teachers is empty" in line


class Failing(Pruner):
    """A plugin's pruner that goes wrong in one way."""

    class Options(Base):
        how: str = "raises"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        if options.how == "cannot be made":
            raise KeyError("table")

    def plan(self, model, batches, budget):
        if self.options.how == "raises":
            raise IndexError("block 12 of 10")
        kept = {"blocks": {"unordered": (3, 1), "beyond": (2, 99), "none": ()}.get(self.options.how, (1, 3))}
        details = {"of numpy": np.float32(1)} if self.options.how == "details" else {}
        score = float("nan") if self.options.how == "nan" else 0.0
        plan = PrunePlan(kept, {"blocks": [score] * 10}, details=details)
        return kept if self.options.how == "no plan" else plan


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "IndexError: block 12 of 10"),
        ("no plan", "plan() returned dict, not an flc.api.PrunePlan"),
        ("unordered", "rising numbers of blocks"),
        ("beyond", "rising numbers of blocks"),
        ("none", "rising numbers of blocks"),
        ("details", "TypeError: Object of type float32 is not JSON serializable"),
        ("nan", "ValueError: scores of blocks are not finite"),
        ("cannot be made", "cannot be made: KeyError: 'table'"),
    ],
)
def test_a_plugin_that_goes_wrong_is_named_and_its_plan_is_not_kept(place, flc, monkeypatch, how, says):
    whole = registry()
    algorithm = Algorithm("failing", f"{__name__}:Failing", "goes wrong")
    mine = Registry([*whole.provided, Provided("pruner", algorithm, "mine", "flc-mine", "1.2")], [])
    monkeypatch.setattr("flc.registry.registry", lambda: mine)
    monkeypatch.setattr("flc.run.objectives.registry", lambda: mine)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Failing.__module__])
    small = ["--set", "prepare.clips=2", "--set", f"pruner.how={how}"]
    code, _, err = flc("score", "--out", "run", "--pruner", "failing", *small)
    (line,) = (row for row in err.splitlines() if row.startswith("flc: error: "))
    assert code == 2 and says in line and "'failing' from flc-mine 1.2" in line, err
    assert not (place / "run" / "score").exists()


class Astray(RecoveryTrainer):
    """A plugin's recovery that goes wrong in one way."""

    class Options(Base):
        how: str = "raises"

    def roles(self):
        how, setting = self.options.how, self.setting
        if how == "raises":
            raise KeyError("anchor")
        view = setting.pruned if how == "pruned" else setting.full
        return {"pupil" if how == "nameless" else "student": Role("full", view, Optim(1e-4))}

    def phases(self, step):
        return ("critic",) if self.options.how == "phase" and step == 3 else ("student",)

    def loss(self, phase, nets, batch, step, rng):
        match self.options.how:
            case "asks":
                nets["anchor"]
            case "breaks":
                raise ZeroDivisionError("of no clips")
            case "detached":
                return Loss(batch.x0.mean())
            case "map":
                return Loss(batch.x0.requires_grad_())
        return batch.x0.mean()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "failed: KeyError: 'anchor'"),
        ("nameless", "roles() must have a 'student' that is trained in full"),
        ("phase", "phases() names 'critic', which is no role with an optimizer"),
        ("pruned", "stage II hands on the whole network: the student's view must be setting.full"),
    ],
)
def test_a_trained_plugin_that_goes_wrong_is_named_before_the_first_stage(place, flc, monkeypatch, how, says):
    recoveries_with(monkeypatch)
    code, _, err = flc("compress", "--out", "run", "--recovery", "astray", "--set", f"recovery.how={how}")
    (line,) = (row for row in err.splitlines() if row.startswith("flc: error: "))
    assert code == 2 and says in line and "recovery 'astray' from flc-mine 1.2" in line, err
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("bare", "returned Tensor, not an flc.api.Loss"),
        ("asks", "failed: LookupError: there is no network 'anchor': roles() names student"),
        ("breaks", "failed: ZeroDivisionError: of no clips (--debug shows where)"),
        ("detached", "has no gradient: nothing in it was computed by a network that is trained"),
        ("map", "is of shape (16, 16, 5, 6, 6), not one number: take its mean"),
    ],
)
def test_a_loss_that_goes_wrong_is_said_with_its_plugin(place, flc, monkeypatch, how, says):
    recoveries_with(monkeypatch)
    small = ["--pruner", "uniform", "--set", f"recovery.how={how}", "--set", "prepare.clips=16"]
    code, _, err = flc("compress", "--out", "run", "--recovery", "astray", *small)
    (line,) = (row for row in err.splitlines() if row.startswith("flc: error: "))
    assert code == 2 and f"Astray.loss('student', ...) {says}" in line, err


def recoveries_with(monkeypatch) -> None:
    """A registry with `Astray` in it."""
    whole = registry()
    algorithm = Algorithm("astray", f"{__name__}:Astray", "goes wrong")
    mine = Registry([*whole.provided, Provided("recovery", algorithm, "mine", "flc-mine", "1.2")], [])
    for place in ("flc.registry", "flc.run.objectives"):
        monkeypatch.setattr(f"{place}.registry", lambda: mine)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Astray.__module__])


class Confused(WanAdapter):
    """A family's adapter that trips over another family's config."""

    @classmethod
    def recognises(cls, index, transformer):
        return transformer["depth"] > 10


def test_an_adapter_that_trips_over_a_config_does_not_stand_in_the_way_of_another_family(place, monkeypatch):
    whole = registry()
    algorithm = Algorithm("aaa", f"{__name__}:Confused", "goes wrong")
    mine = Registry([Provided("model", algorithm, "mine", "flc-mine", "1.2"), *whole.provided], [])
    monkeypatch.setattr("flc.models.folder.registry", lambda: mine)
    assert mine.names("model")[0] == "aaa" and isinstance(adapter_for(EMBEDDED), WanAdapter)
    monkeypatch.setattr(WanAdapter, "recognises", lambda index, transformer: False)
    with pytest.raises(UserError, match=r"model 'aaa' from flc-mine 1.2 .*failed: KeyError: 'depth'"):
        adapter_for(EMBEDDED)
