"""What every registered algorithm keeps, whoever wrote it: the contract of `flc.api`.

Parametrised from the registry, so that an installed third party's algorithms are tested too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flc.api import Query
from flc.data.source import drawn_clips
from flc.draws import StepDraws
from flc.errors import UserError
from flc.evaluate.clips import Clips
from flc.options import checked
from flc.recipe import preset_values
from flc.registry import INTERFACES, create, registry

from .common import B, C, F, H, W, of_kind

# -- every algorithm -------------------------------------------------------------------------------------------

EVERY = of_kind(*INTERFACES)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_is_a_subclass_of_its_interface(kind, name):
    assert issubclass(registry().load(kind, name), INTERFACES[kind])


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_default_options_are_valid_frozen_and_closed(kind, name):
    cls: Any = registry().load(kind, name)
    options = cls.Options()
    assert cls().options == options
    assert checked(cls.Options, options.model_dump(mode="json"), kind) == options, "a lock file's values come back"
    for field in cls.Options.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(options, field, getattr(options, field))
    with pytest.raises(UserError, match=f"unknown option {kind}.no_such_option"):
        create(kind, name, {"no_such_option": "1"})


# -- teachers --------------------------------------------------------------------------------------------------

VIEWS, CONDITIONS = ("pruned", "unpruned"), ("text", "null")
TEACHERS = of_kind("teacher")


def velocities(composer: Any) -> dict[Query, Tensor]:
    """Exactly what the composer says it needs, in float64 so that only its formula matters."""
    g = torch.Generator().manual_seed(1)
    return {q: torch.randn(B, C, F, H, W, generator=g, dtype=torch.float64) for q in composer.needs()}


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_needs_known_queries(kind, name):
    needs = list(create(kind, name).needs())
    assert needs and all(q.view in VIEWS and q.condition in CONDITIONS and 0 <= q.adapter <= 1 for q in needs)
    assert len(needs) == len(set(needs)), "each is evaluated once"
    assert list(create(kind, name).needs()) == needs


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_is_a_pure_function_of_velocities_and_draws(kind, name):
    composer = create(kind, name)
    v = velocities(composer)
    before = {q: x.clone() for q, x in v.items()}
    torch.manual_seed(0)
    first = composer.compose(v, StepDraws(0, "distill", 7))
    torch.manual_seed(1)
    again = create(kind, name).compose(v, StepDraws(0, "distill", 7))
    assert first.shape == (B, C, F, H, W) and torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert all(torch.equal(v[q], before[q]) for q in before), "inputs are not written to"


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_leaves_a_velocity_that_all_agree_on(kind, name, step):
    """Guidance moves along differences of velocities: where there is none, every scale gives the velocity itself.
    1e-12: a few roundings of float64 (1e-16) at scales up to about ten, with room."""
    composer = create(kind, name)
    agreed = torch.randn(B, C, F, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    composed = composer.compose({q: agreed.clone() for q in composer.needs()}, StepDraws(0, "distill", step))
    torch.testing.assert_close(composed, agreed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", [None, "quick", "full"])
@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_uses_what_it_asks_for(kind, name, preset):
    """A velocity that is asked for costs a forward of the whole network. At the default options, and at those with
    which the embedded model is compressed, each must matter."""
    composer = create(kind, name, preset_values(True, preset)["algorithms"]["teacher"].get(name) if preset else None)
    v = velocities(composer)
    whole = composer.compose(v, StepDraws(0, "distill", 0))
    for query in v:
        moved = composer.compose({**v, query: v[query] + 1}, StepDraws(0, "distill", 0))
        assert not torch.allclose(moved, whole), f"{query} changes nothing"


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_treats_samples_alike(kind, name):
    """The core batches as it likes: the composition of a part is the part of the composition."""
    composer = create(kind, name)
    v = velocities(composer)
    whole = composer.compose(v, StepDraws(0, "distill", 3))
    part = composer.compose({q: x[1:3] for q, x in v.items()}, StepDraws(0, "distill", 3))
    torch.testing.assert_close(part, whole[1:3], rtol=0, atol=1e-12)  # the same float64 operations, in other batches


# -- metrics -----------------------------------------------------------------------------------------------------


def clips_of(video: np.ndarray, captions: tuple[str, ...], given: bool) -> Clips:
    return Clips(video.astype(np.float32), captions, video[:, 0].astype(np.float32), np.full(len(video), given))


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, tuple[str, ...]]:
    pairs = list(drawn_clips(12, 9, 48, 48, seed=3))
    return np.stack([v for v, _ in pairs]), tuple(c for _, c in pairs)


SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "drawn": lambda v: v,
    "still": lambda v: np.repeat(v[:, :1], v.shape[1], 1),
    "noise": lambda v: np.random.default_rng(0).random(v.shape),
    "black": np.zeros_like,
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize(("kind", "name"), of_kind("metric"))
def test_a_metric_is_in_range_repeats_itself_and_leaves_its_clips_alone(kind, name, drawn, spoilt):
    video, captions = drawn
    for given in (True, False):
        clips = clips_of(SPOILT[spoilt](video), captions, given)
        reference = clips_of(video, captions, False)
        before = clips.video.copy(), reference.video.copy()
        one, two = (create(kind, name).score(clips, reference) for _ in range(2))
        assert 0 <= one.value <= 1 or one.value != one.value, "in [0, 1], or nan where it does not apply"
        assert one.value == two.value or (one.value != one.value and two.value != two.value)
        assert one.per_clip is None or len(one.per_clip) == len(clips)
        assert np.array_equal(clips.video, before[0]) and np.array_equal(reference.video, before[1])


# -- model families ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), of_kind("model"))
def test_a_family_counts_the_blocks_and_channels_of_every_stack_it_names(kind, name):
    cls = registry().load(kind, name)
    assert cls.stacks and cls.ffn.keys() <= cls.stacks.keys() and cls.lora
    assert all(isinstance(v, str) and v for v in (*cls.stacks.values(), *cls.ffn.values()))
    assert not cls.recognises({"_class_name": "NoSuchPipeline"}, {"_class_name": "NoSuchTransformer3DModel"})
