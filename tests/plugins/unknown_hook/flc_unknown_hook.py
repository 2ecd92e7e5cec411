"""Misspells a hook: its algorithm would never be seen."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_prunners():
    yield Algorithm("misspelt", "flc_unknown_hook:Misspelt", "The hook is called flc_pruners")
