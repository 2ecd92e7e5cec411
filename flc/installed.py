"""Entry points of the installed packages, read one package at a time: importlib.metadata's own `entry_points` fails for
all of them when the files of a single one do not parse."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, EntryPoints, distributions
from pathlib import Path

POINTS, METADATA = "entry_points.txt", "METADATA"
#: A package's own entry points, as importlib.metadata reads them.
READ: Callable[[Distribution], EntryPoints] = Distribution.entry_points.fget  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Unreadable:
    """A package with a file of metadata that cannot be read, and why. Name and version are the folder's then."""

    file: str
    distribution: str
    version: str
    cause: str


def folder_of(dist: Distribution) -> Path:
    """Its `*.dist-info` (or the like). The public ways to a name read the very files that may be broken."""
    return Path(str(getattr(dist, "_path", f"unknown{id(dist)}")))


def name_of(dist: Distribution) -> tuple[str, str] | Unreadable:
    """A package's name and version: the folder's where its metadata tell none."""
    name, version = named_by_folder(dist)
    try:
        told = {key: dist.metadata[key] for key in ("Name", "Version") if key in dist.metadata}
        return str(told.get("Name", name)), str(told.get("Version", version))
    except Exception as error:  # bytes that are no text
        return unreadable(dist, METADATA, error)


def named_by_folder(dist: Distribution) -> tuple[str, str]:
    """Of `my_plugin-1.0.dist-info`, as importlib.metadata takes the name, of `my_plugin.egg-info`, and of an egg, which
    is the folder above its `EGG-INFO`."""
    folder = folder_of(dist)
    egg = folder.name == "EGG-INFO"
    name, _, version = (folder.parent if egg else folder).stem.partition("-")
    return name.replace("_", "-"), version.partition("-")[0] or "?"


def unreadable(dist: Distribution, file: str, error: Exception) -> Unreadable:
    cause = f"{folder_of(dist) / file} does not parse ({type(error).__name__}: {error})".splitlines()[0]
    return Unreadable(file, *named_by_folder(dist), cause)


def installed() -> tuple[list[EntryPoint], list[Unreadable]]:
    """All entry points, and the packages whose entry points cannot be read."""
    points: list[EntryPoint] = []
    broken: list[Unreadable] = []
    seen: set[str] = set()
    for dist in distributions():
        name = re.sub(r"[-_.]+", "-", named_by_folder(dist)[0]).lower()
        if name in seen:  # the first on sys.path hides another one of its name, as one does that is installed editable
            continue
        seen.add(name)
        try:
            points += READ(dist)
        except Exception as error:  # a line without "=", bytes that are no text
            broken.append(unreadable(dist, POINTS, error))
    return points, broken


def forgive() -> None:
    """For the length of this process a package whose entry points do not parse has none.

    torch, triton and pydantic ask importlib.metadata for those of all packages while they are imported, and cannot be
    imported where one of them does not parse."""

    def forgiving(dist: Distribution) -> EntryPoints:
        try:
            return READ(dist)
        except Exception:
            return EntryPoints()

    if installed()[1]:
        Distribution.entry_points = property(forgiving)  # type: ignore[method-assign, assignment]
