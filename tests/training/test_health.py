"""The watch over a stage: what it measures, when it warns, and what it hands on after a collapse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flc.api import Batch, Sample, Setting, View
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips
from flc.draws import StepDraws
from flc.models.view import removed
from flc.recipe import Recipe
from flc.registry import create
from flc.sample import generators_for, noise_for, sample
from flc.train.health import Samples, Velocities, measure, ratios
from flc.train.nets import RoleNet
from flc.train.stage import health_of

from .conftest import DMD

CLIPS = np.stack([video for video, _ in drawn_clips(8, 17, 48, 48, seed=0)])
REAL = measure(CLIPS)


@pytest.fixture
def watch(adapter, tmp_path):
    latents = adapter.encode(CLIPS)
    batch = Batch(latents, adapter.condition(["a red circle moving left"] * 8))
    return Samples(batch, adapter.schedule(2, 3.0, "sde"), adapter.decode, tmp_path)


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
def test_each_way_to_fail_moves_its_own_measure(watch, name, spoil):
    found = ratios(measure(spoil(CLIPS)), REAL)
    assert found[name] < 0.2 and name in (watch.warning(found) or "")


def test_real_clips_of_another_seed_are_no_cause_for_alarm(watch):
    other = np.stack([video for video, _ in drawn_clips(8, 17, 48, 48, seed=1)])
    assert watch.warning(ratios(measure(other), REAL)) is None


def test_oversaturation_is_seen(watch):
    found = ratios(measure(((CLIPS - grey(CLIPS)) * 3 + grey(CLIPS)).clip(0, 1)), REAL)
    # colours that were at .9 of full saturation already cannot triple; half as much again is reached
    assert found["saturation"] > 1.3
    assert watch.deviation({"a": 0.25, "b": 2.0}) == pytest.approx(4.0)


GOOD, WORSE, BAD = ({"motion": r} for r in (0.9, 0.6, 0.5 / Samples.collapsed))


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
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    before = torch.get_rng_state()
    first, second = watch.check(net), watch.check(net)
    assert first == second and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("own", "taken"), [(1.0, 1.0), (3.0, 3.0), (None, 5.0)])
def test_a_student_is_looked_at_with_the_guidance_that_it_is_deployed_with(adapter, tmp_path, monkeypatch, own, taken):
    """None: the model's own, 5 here. Guided clips are those of `flc.sample.sample` at that scale."""
    encode(adapter, [(video, "a red circle moving left") for video in CLIPS[:2]], tmp_path)
    data, distiller = LatentClips(tmp_path, adapter), create("distiller", "dmd", DMD)
    blocks = View({"blocks": tuple(range(len(adapter.transformer.blocks)))})
    distiller.bind(Setting(blocks, blocks, 2, 10, adapter.schedule(2, 3.0, "sde")))
    monkeypatch.setattr(distiller, "guidance", lambda: own)
    job = SimpleNamespace(adapter=adapter, guidance=5.0)
    options = Recipe().distill.model_copy(update={"check_every": 1, "check_clips": 2})
    watch = health_of(job, distiller, adapter.transformer, None, data, options, tmp_path)
    net, shown = RoleNet(adapter, adapter.transformer, adapter.transformer, View()), []
    watch.decode = lambda latents: shown.append(latents) or adapter.decode(latents)
    watch.check(net)
    generators = generators_for([0, 1])
    noise, cond = noise_for(tuple(watch.batch.x0.shape[1:]), generators), watch.batch.cond
    assert torch.equal(shown[0], sample(net, distiller.setting.schedule, taken, noise, cond, generators))


def test_a_check_of_large_clips_samples_few_at_once_and_finds_the_same(watch, adapter, monkeypatch):
    seen, net = [], RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    monkeypatch.setattr(RoleNet, "__call__", lambda s, x, t, c, v=None: seen.append(len(x)) or net.raw(x, t, c))
    whole = watch.check(net)
    monkeypatch.setattr("flc.train.health.NUMBERS", 3 * watch.batch.x0[0].numel())
    # float32 sums of other batch sizes
    assert watch.check(net) == pytest.approx(whole, rel=1e-3) and seen == [8, 8, 3, 3, 3, 3, 2, 2]


# -- recovery ------------------------------------------------------------------------------------------------------


def velocities(m, folder):
    """The watch over a miniature's stage II."""
    g = torch.Generator().manual_seed(6)
    parts = []
    for step in range(2):
        batch = m.batch_at(StepDraws(0, "held", step))
        parts.append(Sample(batch.x0, torch.randn(batch.x0.shape, generator=g), torch.rand(4, generator=g), batch.cond))
    original = RoleNet(m.adapter, m.source, m.source, View())
    return Velocities(parts, original, m.objective.setting.pruned, folder)


def looked(watch, m, step):
    found = watch.check(m.nets["student"])
    watch.remember(step, found, m.engine.export("student") if watch.is_best(found) else None)
    return watch.deviation(found)


DEPTHS = pytest.mark.parametrize(
    ("blocks", "dtype"), [(5, torch.float32), (40, torch.float32), (40, torch.bfloat16)], ids=str
)


@DEPTHS
def test_a_recovery_is_measured_by_the_pruned_network_against_the_original(miniature, tmp_path, blocks, dtype):
    """Written out on a copy whose blocks are really removed; over elements that no first frame gives. 1e-5: float32
    sums. Before training the deviation is 1 in either precision, whatever the error is."""
    m = miniature("bernoulli", blocks=blocks, dtype=dtype)
    watch = velocities(m, tmp_path)
    small = m.adapter.prepare(removed(m.source, m.objective.setting.pruned.kept, m.adapter.stacks))
    errors = []
    for s in watch.samples:
        t = s.t.view(-1, 1, 1, 1, 1)
        x_t, free = (1 - t) * s.x0 + t * s.x1, s.cond.free(s.x0).expand_as(s.x0)
        with torch.no_grad():
            v, whole = (m.adapter.velocity(net, net, x_t, s.t, s.cond).float() for net in (small, m.source))
        errors += (((v - whole) ** 2 * free).sum((1, 2, 3, 4)) / free.sum((1, 2, 3, 4))).tolist()
    assert watch.check(m.nets["student"])["velocity_error"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert looked(watch, m, 0) == 1.0 and watch.warning(watch.check(m.nets["student"])) is None


@DEPTHS
def test_a_recovery_that_learns_ends_below_1_and_one_that_breaks_hands_on_what_it_began_with(
    miniature, tmp_path, blocks, dtype
):
    for name, lr in (("well", 1e-3), ("broken", 10.0)):
        m = miniature("bernoulli", blocks=blocks, dtype=dtype, p=1.0, lr=lr, warmup=0, ema=0)
        (tmp_path / name).mkdir()
        watch = velocities(m, tmp_path / name)
        assert looked(watch, m, 0) == 1.0
        start = m.engine.export("student")
        m.run(tmp_path / name, 12, save_every=0)
        end = looked(watch, m, 12)
        said = watch.warning(watch.check(m.nets["student"]))
        if name == "well":
            assert end < 1 and said is None and watch.rescue() is None
            continue
        assert not end <= 1 and "times as far from the original's as before training" in said
        step, state = watch.rescue()
        assert step == 0 and state.keys() == start.keys() and all(torch.equal(state[n], start[n]) for n in start)


def test_training_before_the_stage_is_measured_against_none_at_all(miniature, tmp_path):
    """A stage that begins with weights of an earlier training is not held to these: the untrained network is worse."""
    m = miniature("bernoulli")
    watch = velocities(m, tmp_path)
    watch.remember(0, {"velocity_error": watch.untrained / 4}, None)
    assert watch.deviation({"velocity_error": watch.untrained / 2}) == pytest.approx(0.5)
    watch.folder = tmp_path / "narrowed"
    watch.folder.mkdir()
    watch.remember(0, {"velocity_error": watch.untrained * 3}, None)
    assert watch.deviation({"velocity_error": watch.untrained * 3}) == 1.0, "narrowed: worse than blocks away alone"


def test_a_look_at_a_recovery_repeats_and_leaves_the_random_state_alone(miniature, tmp_path):
    m = miniature("bernoulli")
    watch, before = velocities(m, tmp_path), torch.get_rng_state()
    assert watch.check(m.nets["student"]) == watch.check(m.nets["student"])
    assert torch.equal(before, torch.get_rng_state())


def test_a_recovery_that_was_twice_as_near_and_is_far_hands_on_what_it_was(miniature, tmp_path):
    m = miniature("bernoulli")
    watch = velocities(m, tmp_path)
    for step, share in ((0, 1.0), (50, 0.2), (100, 0.49)):
        found = {"velocity_error": share * watch.untrained}
        assert watch.warning(found) is None
        watch.remember(step, found, {"w": torch.tensor([share])} if watch.is_best(found) else None)
    assert watch.rescue() is None, "half the way is left: it may have followed its clips"
    found = {"velocity_error": 0.6 * watch.untrained}
    assert "3 times as far from the original's as at iteration 50" in watch.warning(found)
    watch.remember(150, found, None)
    step, state = watch.rescue()
    assert step == 50 and float(state["w"]) == pytest.approx(0.2)


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_an_error_that_is_no_number_is_a_collapse(miniature, tmp_path, error):
    m = miniature("bernoulli")
    watch = velocities(m, tmp_path)
    looked(watch, m, 0)
    assert not watch.is_best({"velocity_error": error})
    watch.remember(5, {"velocity_error": error}, None)
    assert watch.warning({"velocity_error": error}) and watch.rescue()[0] == 0
