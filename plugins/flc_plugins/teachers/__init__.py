"""Plain teachers of stage III, and the cells of FastLightGen's Table 9."""

from collections.abc import Iterator

from flc import hookimpl
from flc.api import Algorithm

PAPER = "FastLightGen, arXiv:2603.01685, Table 9"


@hookimpl
def flc_teachers() -> Iterator[Algorithm]:
    yield Algorithm(
        "cfg", "flc_plugins.teachers.guided:Cfg", "Classifier-free guidance of one network", "arXiv:2207.12598"
    )
    yield Algorithm("strong", "flc_plugins.teachers.guided:Strong", "Guidance of the unpruned network", PAPER)
    yield Algorithm("weak", "flc_plugins.teachers.guided:Weak", "Guidance of the pruned network", PAPER)
