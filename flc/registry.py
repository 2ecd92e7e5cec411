"""Which algorithms are installed, and the one asked for.

Entry points of the group `flc` are loaded one by one, each in a try of its own (pluggy's own loader lets
one broken package kill the host), and each module's hooks are called one by one. What failed is kept with
its cause: `flc plugins` shows it, and asking for a broken plugin's algorithm names that cause. So is any package
whose metadata does not parse, a plugin or not: what its entry points are cannot be known.

`FLC_PLUGINS=a,b` loads only these entry points; `FLC_PLUGINS_STRICT=1` raises on the first broken one.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, get_args

import pluggy
from pydantic import BaseModel

from flc import api, hookspecs
from flc.api import API, Algorithm, Kind
from flc.errors import PluginError, UserError
from flc.family import ModelAdapter
from flc.installed import Unreadable, installed, name_of

GROUP = "flc"
HOOKS: dict[Kind, str] = {
    "pruner": "flc_pruners",
    "recovery": "flc_recovery_trainers",
    "distiller": "flc_distillers",
    "teacher": "flc_teachers",
    "quantizer": "flc_quantizers",
    "model": "flc_models",
    "metric": "flc_metrics",
}
INTERFACES: dict[Kind, type] = {
    "pruner": api.Pruner,
    "recovery": api.RecoveryTrainer,
    "distiller": api.StepDistiller,
    "teacher": api.TeacherComposer,
    "quantizer": api.Quantizer,
    "model": ModelAdapter,
    "metric": api.Metric,
}
assert set(HOOKS) == set(INTERFACES) == set(get_args(Kind))
TARGET = re.compile(r"\w+(\.\w+)*:\w+")


@dataclass(frozen=True)
class Provided:
    """An algorithm with where it comes from."""

    kind: Kind
    algorithm: Algorithm
    entry: str
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version} (entry point {self.entry!r})"


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be used, and why. `names`: the algorithms it had yielded before it failed."""

    entry: str
    target: str
    distribution: str
    version: str
    cause: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"plugin {self.entry!r} of {self.distribution} {self.version} is broken: {self.cause}"


@dataclass
class Registry:
    provided: list[Provided] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def names(self, kind: Kind) -> list[str]:
        return sorted({p.algorithm.name for p in self.provided if p.kind == kind})

    def find(self, kind: Kind, name: str) -> Provided:
        """The one provider of `name`; `PluginError` when there is none, a broken one, or two."""
        found = [p for p in self.provided if p.kind == kind and p.algorithm.name == name]
        if len(found) > 1:
            origins = " and ".join(p.origin for p in found)
            raise PluginError(f"{kind} {name!r} is provided twice, by {origins}: uninstall one or set FLC_PLUGINS")
        if not found:
            raise PluginError(self.unknown(name, kind))
        return found[0]

    def unknown(self, name: str, kind: Kind | None = None) -> str:
        """Why there is no such algorithm (of a kind, or of any): the nearest names, and what is broken."""
        names = sorted({p.algorithm.name for p in self.provided if kind in (None, p.kind)})
        what = kind or "algorithm"
        from_broken = [str(b) for b in self.broken if name in b.names]
        if from_broken:
            return f"no {what} named {name!r}: {' and '.join(from_broken)}"
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        text = f"no {what} named {name!r}"
        text += f": did you mean {' or '.join(near)}?" if near else f"; there are: {', '.join(names) or 'none'}"
        for b in self.broken:
            text += f" ({b})"
        only = os.environ.get("FLC_PLUGINS")
        return text if only is None else f"{text} (FLC_PLUGINS={only} leaves all others out)"

    def load(self, kind: Kind, name: str) -> type:
        """The class of an algorithm, imported now."""
        provided = self.find(kind, name)
        module, _, attribute = provided.algorithm.target.partition(":")
        fault = f"{kind} {name!r} from {provided.origin} cannot be loaded"
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{fault}: {_one_line(error)}") from error
        interface = INTERFACES[kind]
        if not (isinstance(cls, type) and issubclass(cls, interface)):
            raise PluginError(f"{fault}: {provided.algorithm.target} is not a subclass of {place(interface)}")
        options: Any = getattr(cls, "Options", api.Options)
        if not (isinstance(options, type) and issubclass(options, BaseModel)):
            base = place(api.Options)
            raise PluginError(f"{fault}: {provided.algorithm.target}.Options is not a subclass of {base}")
        missing: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
        if missing:
            raise PluginError(f"{fault}: {provided.algorithm.target} does not define {', '.join(sorted(missing))}")
        return cls


def place(interface: type) -> str:
    """Where an author finds an interface."""
    return f"{interface.__module__}.{interface.__name__}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check(hook: str, algorithm: object) -> Algorithm:
    """What a hook yielded, when it is a record that this flc can use."""
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"{hook} yielded {algorithm!r}, not an flc.api.Algorithm")
    if algorithm.api != API:
        said = f"{algorithm.name!r} wants plugin API {algorithm.api}, this flc has {API}"
        raise PluginError(f"{said}: install versions that match")
    if not TARGET.fullmatch(algorithm.target):
        raise ValueError(f"target {algorithm.target!r} of {algorithm.name!r} is not of the form package.module:Class")
    return algorithm


def _read(entry: EntryPoint, registry: Registry) -> None:
    """Load one entry point and call its hooks; all of its algorithms or, when anything fails, none."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    named = name_of(entry.dist) if entry.dist else ("unknown", "?")
    unread = named if isinstance(named, Unreadable) else None
    distribution, version = named if not isinstance(named, Unreadable) else (named.distribution, named.version)
    found: list[Provided] = []
    names: list[str] = []
    try:
        if unread:
            raise PluginError(unread.cause)
        if not EntryPoint.pattern.match(entry.value):
            raise PluginError(f"its entry point names {entry.value!r}, which is no module: write package.module")
        manager.register(entry.load(), name=entry.name)
        manager.check_pending()
        for kind, hook in HOOKS.items():
            results: list[Iterable[Algorithm]] = getattr(manager.hook, hook)()
            for yielded in (a for result in results for a in result):
                names.append(str(getattr(yielded, "name", yielded)))
                found.append(Provided(kind, _check(hook, yielded), entry.name, distribution, version))
    except (Exception, SystemExit) as error:
        broken = Broken(entry.name, entry.value, distribution, version, _one_line(error), tuple(names))
        if os.environ.get("FLC_PLUGINS_STRICT") == "1":
            raise PluginError(str(broken)) from error
        registry.broken.append(broken)
    else:
        registry.provided.extend(found)


def discover(entries: Iterable[EntryPoint] | None = None) -> Registry:
    """Read the installed entry points (or the given ones) into a registry."""
    registry = Registry()
    if entries is None:
        points, unread = installed()
        entries = [point for point in points if point.group == GROUP]
        registry.broken += [Broken(u.file, u.file, u.distribution, u.version, u.cause) for u in unread]
    found = sorted(entries, key=lambda e: e.name)
    allowed = os.environ.get("FLC_PLUGINS")
    if allowed is not None:
        names = {n.strip() for n in allowed.split(",") if n.strip()} | {GROUP}
        unknown = sorted(names - {e.name for e in found} - {GROUP})
        if unknown:
            there = ", ".join(e.name for e in found if e.name != GROUP) or "none"
            raise PluginError(f"FLC_PLUGINS names {', '.join(unknown)}, which is not installed; there are: {there}")
        found = [e for e in found if e.name in names]
    for entry in found:
        _read(entry, registry)
    return registry


@cache
def registry() -> Registry:
    """The registry of this process."""
    return discover()


def create(kind: Kind, name: str, options: dict[str, Any] | None = None) -> Any:
    """An algorithm by name with its options checked."""
    from flc.options import checked

    cls: Any = registry().load(kind, name)
    values = checked(cls.Options, options or {}, where=kind)
    try:
        return cls(values)
    except UserError:
        raise
    except Exception as error:
        origin = registry().find(kind, name).origin
        raise PluginError(f"{kind} {name!r} from {origin} cannot be made: {_one_line(error)}") from error
