"""Yields one algorithm, then its hook raises."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_teachers():
    yield Algorithm("half-told", "flc_hook_error:Nothing", "Yielded before the hook raises")
    raise RuntimeError("the table of teachers is empty")
