"""A plugin with nothing wrong."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_pruners():
    yield Algorithm("every-other", "flc_good.pruner:EveryOther", "Keep every other block", "a paper")
