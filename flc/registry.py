"""Which algorithms are installed, and the one asked for.

Entry points of the group `flc` are loaded one by one, each in a try of its own (pluggy's own loader lets
one broken package kill the host), and each module's hooks are called one by one. What failed is kept with
its cause: `flc plugins` shows it, and asking for a broken plugin's algorithm names that cause.

`FLC_PLUGINS=a,b` loads only these entry points; `FLC_PLUGINS_STRICT=1` raises on the first broken one.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

import pluggy

from flc import hookspecs
from flc.api import API, Algorithm, Kind
from flc.errors import PluginError

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
assert set(HOOKS) == set(get_args(Kind))


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
    """An entry point that could not be used, and why."""

    entry: str
    target: str
    distribution: str
    version: str
    cause: str


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
            raise PluginError(self._unknown(kind, name))
        if found[0].algorithm.api != API:
            asked = found[0].algorithm.api
            raise PluginError(
                f"{kind} {name!r} from {found[0].origin} wants plugin API {asked}, this flc has {API}: "
                f"install versions that match"
            )
        return found[0]

    def _unknown(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        text = f"no {kind} named {name!r}"
        text += f": did you mean {' or '.join(near)}?" if near else f"; there are: {', '.join(names) or 'none'}"
        for b in self.broken:
            text += f" (plugin {b.entry!r} of {b.distribution} {b.version} is broken: {b.cause})"
        return text

    def load(self, kind: Kind, name: str) -> type:
        """The class of an algorithm, imported now."""
        provided = self.find(kind, name)
        module, _, attribute = provided.algorithm.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"{kind} {name!r} from {provided.origin} cannot be loaded: {cause}") from error


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _read(entry: EntryPoint, registry: Registry) -> None:
    """Load one entry point and call its hooks; all of its algorithms or, when anything fails, none."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    dist = entry.dist
    distribution, version = (dist.name, dist.version) if dist else ("unknown", "?")
    try:
        manager.register(entry.load(), name=entry.name)
        manager.check_pending()
        found = []
        for kind, hook in HOOKS.items():
            results: list[Iterable[Algorithm]] = getattr(manager.hook, hook)()
            for algorithm in (a for result in results for a in result):
                if not isinstance(algorithm, Algorithm):
                    raise TypeError(f"{hook} yielded {algorithm!r}, not an flc.api.Algorithm")
                found.append(Provided(kind, algorithm, entry.name, distribution, version))
    except Exception as error:
        if os.environ.get("FLC_PLUGINS_STRICT") == "1":
            raise PluginError(f"plugin {entry.name!r} of {distribution} {version}: {_one_line(error)}") from error
        registry.broken.append(Broken(entry.name, entry.value, distribution, version, _one_line(error)))
    else:
        registry.provided.extend(found)


def discover(entries: Iterable[EntryPoint] | None = None) -> Registry:
    """Read the installed entry points (or the given ones) into a registry."""
    allowed = os.environ.get("FLC_PLUGINS")
    names = None if allowed is None else {n.strip() for n in allowed.split(",")} | {GROUP}
    registry = Registry()
    for entry in sorted(entry_points(group=GROUP) if entries is None else entries, key=lambda e: e.name):
        if names is None or entry.name in names:
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
    return cls(checked(cls.Options, options or {}, where=kind))
