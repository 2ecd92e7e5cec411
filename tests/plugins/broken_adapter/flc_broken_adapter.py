"""A model family whose module does not import; sorted before every other family."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_models():
    yield Algorithm("a-family", "flc_broken_adapter.gone:Adapter", "Its module does not exist")
