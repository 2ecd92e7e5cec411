"""Baselines and controls, registered as plugins."""

from collections.abc import Iterator

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_pruners() -> Iterator[Algorithm]:
    target = "flc_baselines.uniform:UniformPruner"
    yield Algorithm("uniform", target, "Control: blocks evenly spaced over the depth are removed")


@hookimpl
def flc_recovery_trainers() -> Iterator[Algorithm]:
    yield Algorithm("none", "flc_baselines.none:NoRecovery", "Control: no stage II, weights go on as they are")
