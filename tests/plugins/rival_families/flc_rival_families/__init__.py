"""Model families that recognise folders of Wan's, too: a stranger's, or one that extends Wan's; `FAMILY` says which."""

import os

from flc import hookimpl
from flc.api import Algorithm


@hookimpl
def flc_models():
    family = os.environ["FAMILY"]
    yield Algorithm("a-family", f"flc_rival_families.families:{family}", "It claims what Wan's does")
