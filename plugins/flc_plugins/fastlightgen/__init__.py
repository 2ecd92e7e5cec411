"""FastLightGen (arXiv:2603.01685): ELBO block pruning, Bernoulli training, well-guided distribution matching."""

from collections.abc import Iterator

from flc import hookimpl
from flc.api import Algorithm

PAPER = "FastLightGen, arXiv:2603.01685"


@hookimpl
def flc_pruners() -> Iterator[Algorithm]:
    target = "flc_plugins.fastlightgen.elbo:ElboPruner"
    yield Algorithm("elbo", target, "Skip each block in turn, rank by x0 error (stage I)", f"{PAPER}, Eq 4")


@hookimpl
def flc_recovery_trainers() -> Iterator[Algorithm]:
    target = "flc_plugins.fastlightgen.bernoulli:BernoulliRecovery"
    yield Algorithm(
        "bernoulli", target, "Skip removed blocks at random, distil from the whole (stage II)", f"{PAPER}, Eq 5-7"
    )


@hookimpl
def flc_distillers() -> Iterator[Algorithm]:
    target = "flc_plugins.fastlightgen.dmd:DmdDistiller"
    yield Algorithm("dmd", target, "Distribution matching to a few-step generator (stage III)", f"{PAPER}, Eq 8")


@hookimpl
def flc_teachers() -> Iterator[Algorithm]:
    target = "flc_plugins.fastlightgen.well_guided:WellGuided"
    yield Algorithm("well-guided", target, "Guidance by text and by the removed blocks (stage III)", f"{PAPER}, Eq 9")
