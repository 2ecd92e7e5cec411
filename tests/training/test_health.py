"""The watch over distillation: what it measures, when it warns, and what it hands on after a collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flc.api import Batch
from flc.data.source import drawn_clips
from flc.train.health import COLLAPSED, Health, deviation, measure, ratios, warning

CLIPS = np.stack([video for video, _ in drawn_clips(8, 17, 48, 48, seed=0)])
REAL = measure(CLIPS)


def grey(video):
    return video.mean(-1, keepdims=True).repeat(3, -1)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("motion", lambda v: v[:, :1].repeat(17, 1)),
        ("saturation", grey),
        ("sharpness", lambda v: v.mean((2, 3), keepdims=True).repeat(48, 2).repeat(48, 3)),
        ("diversity", lambda v: v[:1].repeat(8, 0)),
    ],
)
def test_each_way_to_fail_moves_its_own_measure(name, spoil):
    found = ratios(measure(spoil(CLIPS)), REAL)
    assert found[name] < 0.2 and name in (warning(found) or "")


def test_real_clips_of_another_seed_are_no_cause_for_alarm():
    other = np.stack([video for video, _ in drawn_clips(8, 17, 48, 48, seed=1)])
    assert warning(ratios(measure(other), REAL)) is None


def test_oversaturation_is_seen():
    found = ratios(measure(((CLIPS - grey(CLIPS)) * 3 + grey(CLIPS)).clip(0, 1)), REAL)
    # colours that were at .9 of full saturation already cannot triple; half as much again is reached
    assert found["saturation"] > 1.3
    assert deviation({"a": 0.25, "b": 2.0}) == pytest.approx(4.0)


@pytest.fixture
def watch(adapter, tmp_path):
    latents = adapter.encode(CLIPS)
    batch = Batch(latents, adapter.condition(["a red circle moving left"] * 8))
    return Health(batch, adapter.schedule(2, 3.0, "sde"), adapter.decode, tmp_path)


GOOD, WORSE, BAD = ({"motion": r} for r in (0.9, 0.6, 0.5 / COLLAPSED))


def test_the_best_check_is_kept_and_rescues_a_collapsed_run(watch):
    for step, found, weight in ((1, WORSE, 1.0), (2, GOOD, 2.0), (3, BAD, 3.0)):
        state = {"w": torch.tensor([weight])} if watch.is_best(found) else None
        watch.remember(step, found, state)
    step, state = watch.rescue()
    assert step == 2 and float(state["w"]) == 2.0


def test_a_run_that_ends_well_is_not_rescued(watch):
    watch.remember(1, GOOD, {"w": torch.zeros(1)})
    watch.remember(2, WORSE, None)
    assert watch.rescue() is None


def test_a_run_that_was_never_well_is_not_rescued(watch):
    watch.remember(1, BAD, {"w": torch.zeros(1)})
    assert watch.rescue() is None


def test_a_check_repeats_and_leaves_the_random_state_alone(watch, adapter):
    from flc.api import View
    from flc.train.nets import RoleNet

    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    before = torch.get_rng_state()
    first, second = watch.check(net), watch.check(net)
    assert first == second and torch.equal(before, torch.get_rng_state())


def test_a_check_of_large_clips_samples_few_at_once_and_finds_the_same(watch, adapter, monkeypatch):
    from flc.api import View
    from flc.train.nets import RoleNet

    seen, net = [], RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    monkeypatch.setattr(RoleNet, "__call__", lambda s, x, t, c, v=None: seen.append(len(x)) or net.raw(x, t, c))
    whole = watch.check(net)
    monkeypatch.setattr("flc.train.health.NUMBERS", 3 * watch.batch.x0[0].numel())
    # float32 sums of other batch sizes
    assert watch.check(net) == pytest.approx(whole, rel=1e-3) and seen == [8, 8, 3, 3, 3, 3, 2, 2]
