"""The target names no class."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_pruners():
    yield Algorithm("aimless", "flc_bad_target.Aimless", "A dot where a colon belongs")
