"""Provides the name of the plugin `good` again."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_pruners():
    yield Algorithm("every-other", "flc_good.pruner:EveryOther", "The same name")
