"""Lists well, but its targets cannot be used; seen only when one is asked for."""

from flc import hookimpl
from flc.api import Algorithm, Pruner


class Abstract(Pruner):
    """Defines no plan."""


class Stranger:
    """Derives from nothing."""


@hookimpl
def flc_pruners():
    yield Algorithm("no-module", "flc_missing_target.gone:Gone", "The module does not exist")
    yield Algorithm("no-class", "flc_missing_target:Gone", "The class does not exist")
    yield Algorithm("abstract", "flc_missing_target:Abstract", "An abstract class")
    yield Algorithm("stranger", "flc_missing_target:Stranger", "Not a Pruner")
