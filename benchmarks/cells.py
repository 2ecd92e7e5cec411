"""What is compared: a scale, which is a recipe at one size, and cells, which differ from it in a few choices.

A cell is a recipe. A run of it is known by that, whichever table asks for it and whatever that calls it (`identity`):
where weights, clips and VBench lie is no part of it, only what their folders are called.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.common import ROOT
from flc.errors import UserError
from flc.evaluate.manifest import digest as digest_of
from flc.evaluate.manifest import read_manifest
from flc.recipe import ALGORITHMS, EVALUATE_PLACES, PLACES, Choice, Recipe, merge, resolve
from flc.registry import registry
from flc.run.compress import completed

SCALES = Path(__file__).parent / "scales"
NOT_OF_RECIPE = ("algorithms", "launch", "ranks", "timing", "jobs")


@dataclass(frozen=True)
class Scale:
    """`scales/NAME.yaml`: a recipe, options of algorithms by kind and name, how `flc` is started and in how many
    `ranks`, how often times are taken (`timing`) and how many runs go on at a time (`jobs`); `over` is laid over the
    recipe: where this machine has the weights and clips."""

    name: str
    over: dict[str, Any] = field(default_factory=dict)
    launch: str = ""

    def read(self) -> dict[str, Any]:
        return yaml.safe_load((SCALES / f"{self.name}.yaml").read_text())

    def base(self) -> dict[str, Any]:
        return merge({key: value for key, value in self.read().items() if key not in NOT_OF_RECIPE}, self.over)

    def options(self, kind: str, name: str) -> dict[str, Any]:
        return self.read().get("algorithms", {}).get(kind, {}).get(name, {})

    def command(self) -> list[str]:
        return shlex.split(self.launch or self.read().get("launch", "")) or [sys.executable, "-m", "flc"]

    def check_hosts(self) -> None:
        """deepspeed takes the one machine it runs on where its hostfile is missing, and says so in a warning."""
        command = self.command()
        if "--hostfile" in command:
            hosts = ROOT / command[command.index("--hostfile") + 1]
            if not hosts.exists():
                sys.exit(f"{hosts} is missing: write it (one `HOST slots=GPUS` a line), or give another --launch")


@dataclass(frozen=True)
class Cell:
    """One method at one setting. `values` is laid over the scale's recipe; `row` is what counts of its metrics.
    A method that trains in one stage only, `all_in`, has both stages' iterations there: the same training budget.
    `seeded`: the algorithm whose own seed is the run's."""

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    row: str = "student"
    all_in: Literal["recover", "distill"] | None = None
    seeded: Literal["pruner"] | None = None

    def at(self, scale: Scale, seed: int) -> Recipe:
        recipe = self.resolved(scale, seed)
        return completed(recipe.model_copy(update={kind: self.chosen(recipe, kind, scale) for kind in ALGORITHMS}))

    def resolved(self, scale: Scale, seed: int) -> Recipe:
        """Without the scale's options of algorithms."""
        values = merge(merge(scale.base(), self.values), {"seed": seed})
        recipe = resolve(values, {}, {})
        if self.all_in is None:
            return recipe
        both = recipe.recover.iterations + recipe.distill.iterations
        return resolve(merge(values, {self.all_in: {"iterations": both}}), {}, {})

    def chosen(self, recipe: Recipe, kind: str, scale: Scale) -> Choice:
        """The algorithm of this kind: preset < scale < what the cell says itself."""
        choice: Choice = getattr(recipe, kind)
        given = self.values.get(kind)
        own = {k: v for k, v in given.items() if k != "name"} if isinstance(given, dict) else {}
        own |= {"seed": recipe.seed} if kind == self.seeded else {}
        return Choice(name=choice.name, **choice.options | scale.options(kind, choice.name) | own)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


#: What says where an optimizer lies and in how many parts a batch is taken, and not what comes out.
MEANS = {"offload": True, "recover": {"accumulate"}, "distill": {"accumulate"}}


def means(recipe: Recipe) -> dict[str, Any]:
    """`MEANS` of a recipe: where a loss compares clips, the parts count that they are compared in."""
    out: dict[str, Any] = dict(MEANS)
    for name, kind in (("recover", "recovery"), ("distill", "distiller")):
        compares = registry().load(kind, getattr(recipe, kind).name).compares  # type: ignore[attr-defined]
        if compares > 1 and getattr(recipe, name).accumulate > 1:
            out.pop(name)
    return out


@cache
def prompts_of(manifest: str, changed: int) -> str:
    """A fingerprint of what a manifest asks for, images and all; of one that cannot be read its name."""
    try:
        return digest_of(read_manifest(Path(manifest)))
    except UserError:
        return Path(manifest).name


def identity(recipe: Recipe) -> dict[str, Any]:
    """What makes a run the run it is: its recipe, with files and folders by their last name but a manifest by what it
    asks for, without an interpreter and without `MEANS`."""

    def named(values: dict[str, Any], places: Sequence[str]) -> dict[str, Any]:
        return {k: Path(v).name if k in places and v else v for k, v in values.items()}

    values = recipe.model_dump(mode="json", exclude=means(recipe))
    evaluate = named(values["evaluate"], EVALUATE_PLACES) | {"vbench_python": None, "vbench_data": None}
    if (manifest := recipe.evaluate.manifest) and Path(manifest).is_file():
        evaluate["manifest"] = prompts_of(manifest, Path(manifest).stat().st_mtime_ns)
    return named(values, PLACES) | {"evaluate": evaluate}


def name_of(recipe: Recipe) -> str:
    return digest(identity(recipe))


def difference(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What `own` says otherwise than `base`, section by section; of another algorithm all."""
    out = {}
    for key, value in own.items():
        before = base.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and value.get("name") == before.get("name"):
            if inner := difference(value, before):
                out[key] = inner
        elif key not in base or value != before:
            out[key] = value
    return out


def said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def described(cell: Cell, scale: Scale) -> str:
    """A cell's recipe in words, the same whichever table asks: what it says otherwise than the scale's file, algorithms
    by name with what they do not get from there anyway."""
    seed = 1  # not the default of an algorithm's own, which is another run's then
    bare = Scale(scale.name)
    recipe, plain = cell.at(scale, seed), Cell("").at(bare, seed)
    words = []
    for key, value in difference(identity(recipe), identity(plain)).items():
        if key in ALGORITHMS:
            name = getattr(recipe, key).name
            usual = Cell("", {key: name}).at(bare, seed)
            more = difference(getattr(recipe, key).options, getattr(usual, key).options)
            own = [f"{n}=run's" if (n, v) == ("seed", seed) else f"{n}={said(v)}" for n, v in more.items()]
            words.append(f"{key}={name}" + f"({', '.join(own)})" * bool(own))
        elif isinstance(value, Mapping):
            words += [f"{key}.{name}={said(v)}" for name, v in value.items()]
        else:
            words.append(f"{key}={said(value)}")
    return " ".join(words) or "the scale's own"
