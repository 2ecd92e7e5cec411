"""Written for a later plugin API."""

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_distillers():
    yield Algorithm("from-the-future", "flc_wrong_api:Future", "Needs API 99", api=99)
