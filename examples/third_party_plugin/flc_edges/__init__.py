"""Two algorithms for flc. This module only names them; their modules are imported when they are used."""

from collections.abc import Iterator

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_pruners() -> Iterator[Algorithm]:
    yield Algorithm("edges", "flc_edges.pruner:EdgesPruner", "Keep the first and last blocks, drop the middle")


@hookimpl
def flc_teachers() -> Iterator[Algorithm]:
    yield Algorithm("halfway", "flc_edges.teacher:Halfway", "Mean of the pruned and the unpruned guided velocity")
