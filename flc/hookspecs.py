"""The hooks of the entry-point group `flc`. An entry point names a module; the module implements hooks.

A complete plugin package is three files. `pyproject.toml`::

    [project.entry-points.flc]
    mine = "flc_mine"

`flc_mine/__init__.py`::

    from flc import hookimpl
    from flc.api import Algorithm

    @hookimpl
    def flc_pruners():
        yield Algorithm("every-other", "flc_mine.pruner:EveryOther", "Keep every other block")

and `flc_mine/pruner.py` with the class. Listing names must import nothing heavy: keep torch out of the
module that the entry point names.
"""

from __future__ import annotations

from collections.abc import Iterable

from pluggy import HookspecMarker

from flc.api import Algorithm

hookspec = HookspecMarker("flc")


@hookspec
def flc_pruners() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.Pruner` classes: decide which blocks stay. Used by `--pruner NAME`."""


@hookspec
def flc_recovery_trainers() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.RecoveryTrainer` classes: stage II. Used by `--recovery NAME`."""


@hookspec
def flc_distillers() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.StepDistiller` classes: stage III. Used by `--distiller NAME`."""


@hookspec
def flc_teachers() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.TeacherComposer` classes: the real velocity of stage III. Used by `--teacher NAME`."""


@hookspec
def flc_quantizers() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.Quantizer` classes."""


@hookspec
def flc_models() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.family.ModelAdapter` classes: one for each family of checkpoints; chosen by `recognises`."""


@hookspec
def flc_metrics() -> Iterable[Algorithm]:  # type: ignore[empty-body]
    """`flc.api.Metric` classes: all of them are computed by `flc evaluate`."""
