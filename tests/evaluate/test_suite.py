"""A third party's metric that is broken: the others are scored, and the table says what is missing and why."""

from __future__ import annotations

import json
import math
import signal
import tracemalloc
from dataclasses import fields

import numpy as np
import pytest

from flc.api import Algorithm, Metric, Score
from flc.api import Options as Base
from flc.errors import Interrupted, PluginError, UserError
from flc.evaluate import suite
from flc.evaluate.clips import Clips, _foreground
from flc.evaluate.intervals import clip_averages
from flc.evaluate.metrics import AVERAGE
from flc.evaluate.sampling import Row
from flc.recipe import resolve
from flc.registry import Provided, discover
from flc.run import shapes
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.stages import STAGES

from .spoil import draw_clips


class Raising(Metric):
    def score(self, clips, reference):
        raise RuntimeError("no weights")


class Fixed(Metric):
    def score(self, clips, reference):
        return Score(0.5)


class Returning(Metric):
    def score(self, clips, reference):
        return {"number": 0.5, "infinite": Score(math.inf), "above": Score(1.5)}[self.options.what]

    class Options(Base):
        what: str = "number"


class Infinite(Returning):
    class Options(Base):
        what: str = "infinite"


class Numpy(Metric):
    def score(self, clips, reference):
        return Score(clips.video.mean() + np.float32(0.25))


class Counted(Metric):
    """One number too few."""

    def score(self, clips, reference):
        return Score(0.5, np.full(len(clips) - 1, 0.5))


class Some(Metric):
    """Applies to the first clip only."""

    def score(self, clips, reference):
        return Score(1 / 3, [1 / 3, *[math.nan] * (len(clips) - 1)])


class Needy(Metric):
    class Options(Base):
        weights: str


class Stopped(Metric):
    def score(self, clips, reference):
        raise Interrupted(signal.SIGTERM)


class Registry:
    """The needed metrics at .5, one that does not load, and those that go wrong in their own ways."""

    broken = "aesthetic"
    wrong = {  # noqa: RUF012
        "raising": Raising, "number": Returning, "infinite": Infinite, "needy": Needy, "numpy": Numpy,
        "counted": Counted, "some": Some,
    }  # fmt: skip

    def names(self, kind):
        return sorted([*suite.NEEDED, "aesthetic", *self.wrong])

    def load(self, kind, name):
        if kind != "metric":
            return discover().load(kind, name)
        if name == self.broken:
            raise PluginError(f"metric {name!r} cannot be loaded: ModuleNotFoundError")
        return self.wrong.get(name, Fixed)

    def find(self, kind, name):
        return Provided(kind, Algorithm(name, "mine:Metric", f"what {name} is"), "mine", "flc-mine", "1.2")


@pytest.fixture
def registry(monkeypatch):
    found = Registry()
    monkeypatch.setattr(suite, "registry", lambda: found)
    monkeypatch.setattr("flc.registry.registry", lambda: found)
    return found


def test_it_is_na_with_its_cause_and_the_rest_is_scored(registry):
    video = np.zeros((2, 5, 16, 16, 3), np.float32)
    clips = Clips(video, ("a red circle moving left",) * 2, video[:, 0], np.zeros(2, bool))
    row = suite.score_row(Row("student", "student", None, None, 4, 1.0, 10), clips, clips, 0.1)
    assert row["scores"]["aesthetic"] is None and "cannot be loaded" in row["notes"]["aesthetic"]
    assert row["scores"]["raising"] is None and row["notes"]["raising"] == "failed: RuntimeError: no weights"
    assert "returned float, not an flc.api.Score" in row["notes"]["number"] and row["scores"]["number"] is None
    assert "returned inf, which is not in [0, 1]" in row["notes"]["infinite"] and row["scores"]["infinite"] is None
    assert "weights" in row["notes"]["needy"] and row["scores"]["needy"] is None
    assert row["scores"]["numpy"] == 0.25 and "numpy" not in row["notes"]
    assert "per_clip of shape (1,), not one number for each of 2 clips" in row["notes"]["counted"]
    assert row["per_clip"] == {"some": [0.33333, None]}, "to five digits, and none for what has no score clip by clip"
    json.dumps(row, allow_nan=False)
    assert {m["name"]: m["summary"] for m in suite.described()}["raising"] == "what raising is", "it has no docstring"
    assert row["average"] == 0.5 and all(row["scores"][name] == 0.5 for name in suite.NEEDED)


def test_clips_from_text_and_from_a_first_frame_are_told_apart():
    by_clip = {name: np.array([0.2, 0.4, 1.0, 1.0]) for name in AVERAGE}
    by_clip["first_frame_fidelity"] = np.array([math.nan, math.nan, 0.5, 0.7])
    scores = {name: Score(float(np.nanmean(values)), values) for name, values in by_clip.items()}
    scores |= {"diversity": Score(0.9), "caption_accuracy": Score(math.nan)}  # captions of another kind
    parts = suite.by_source(scores, np.array([False, False, True, True]))
    text, first = parts["text_only"], parts["first_frame"]
    assert text["average"] == pytest.approx(0.3) and text["sharpness"] == pytest.approx(0.3)
    assert first["average"] == 1.0 and first["first_frame_fidelity"] == pytest.approx(0.6)
    assert "first_frame_fidelity" not in text and not {"diversity", "caption_accuracy"} & (text.keys() | first.keys())
    for given in (np.zeros(4, bool), np.ones(4, bool)):
        assert suite.by_source(scores, given) == {"text_only": {}, "first_frame": {}}


def test_a_rows_average_is_that_of_its_clips():
    video = np.random.default_rng(0).random((4, 5, 16, 16, 3), np.float32)
    clips = Clips(video, ("a red circle moving left",) * 4, video[:, 0], np.arange(4) < 2)
    row = json.loads(json.dumps(suite.score_row(Row("student", "student", None, None, 4, 1.0, 10), clips, clips, 0.1)))
    assert clip_averages(row).mean() == pytest.approx(row["average"], abs=10**-suite.DIGITS)
    assert row["text_only"]["average"] == pytest.approx(clip_averages(row)[2:].mean(), abs=10**-suite.DIGITS)
    assert row["per_clip"]["first_frame_fidelity"][2:] == [None, None]


def test_one_that_the_table_needs_is_refused(registry, monkeypatch):
    monkeypatch.setattr(registry, "broken", "sharpness")
    with pytest.raises(PluginError, match="sharpness"):
        suite.metrics()
    with pytest.raises(RuntimeError):
        suite.scored("sharpness", Raising(), None, None)
    assert math.isnan(suite.scored("other", Raising(), None, None).value)


def test_a_signal_while_a_metric_scores_is_no_fault_of_the_metric(registry):
    with pytest.raises(Interrupted):
        suite.scored("other", Stopped(), None, None)


def test_a_run_is_warned_before_its_first_stage_and_one_without_a_table_is_not(registry, tmp_path, capsys):
    job = Job(completed(resolve({}, {}, {})), tmp_path / "out", Console())
    job.check(["evaluate"])
    assert "aesthetic will be n/a" in capsys.readouterr().err
    job.check(["score"])
    assert "aesthetic" not in capsys.readouterr().err


def test_what_is_measured_of_clips_takes_the_memory_that_is_counted_before_a_run():
    """The work on one clip of 24 comes on top, a few numbers a pixel: a fifth. Twice the whole would be beyond it."""
    clips = draw_clips(24, seed=0, frames=9, height=96, width=96)
    tracemalloc.start()
    assert clips.foreground.mask.any()
    peak = tracemalloc.get_traced_memory()[1] / (clips.video.nbytes / shapes.VIDEO)
    tracemalloc.stop()
    assert shapes.MEASURED <= peak < 1.5 * shapes.MEASURED


@pytest.mark.parametrize("lpips", [None, "random"])
def test_a_table_beyond_the_machines_memory_is_refused_with_the_number_and_a_way_out(tmp_path, monkeypatch, lpips):
    """48 clips and 48 to compare them with, 81 frames of 480 x 832, of 20 bytes a pixel and a tenth more: 68 GB; and 12
    bytes a pixel of the row that LPIPS compares: 19 GB more."""
    need = 96 * 81 * 480 * 832 * 22 + (48 * 81 * 480 * 832 * 12 if lpips else 0)
    options = {"clips": 48, "reference": 48, "lpips": lpips}
    job = Job(completed(resolve({"evaluate": options}, {}, {})), tmp_path, Console(quiet=True))
    job.size = (81, 480, 832)
    monkeypatch.setattr(shapes, "memory_of_machine", lambda: need + 1)
    shapes.check_memory(job)
    monkeypatch.setattr(shapes, "memory_of_machine", lambda: need - 1)
    with pytest.raises(
        UserError, match=f"in memory, {need / 1e9:.3g} GB at 81 frames of 480 x 832, .*evaluate.clips=8"
    ):
        shapes.check_memory(job)
    job.recipe = resolve({"evaluate": options | {"suite": "vbench"}}, {}, {})
    shapes.check_memory(job)


def test_a_containers_limit_is_its_memory(tmp_path, monkeypatch):
    whole = shapes.memory_of_machine()
    monkeypatch.setattr(shapes, "LIMIT", tmp_path / "memory.max")
    for text, found in (("1000000\n", 1e6), ("max\n", None), (f"{10**30}\n", None)):
        shapes.LIMIT.write_text(text)
        assert shapes.memory_of_machine() == found or (found is None and shapes.memory_of_machine() >= whole)


def test_a_run_whose_table_does_not_fit_is_refused_before_its_first_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "memory_of_machine", lambda: 1e6)
    job = Job(completed(resolve({}, {}, {})), tmp_path / "run", Console(quiet=True))
    with pytest.raises(UserError, match="the shapes suite holds"):
        job.check(STAGES)
    job.check([name for name in STAGES if name != "evaluate"])


def test_what_is_measured_of_clips_lies_in_memory_as_it_is_stacked():
    """Else sums of float32, and with them scores, would differ by what rounding does in another order."""
    clips = draw_clips(3, seed=0)
    decoded = np.ascontiguousarray(clips.video.transpose(0, 4, 1, 2, 3)).transpose(
        0, 2, 3, 4, 1
    )  # as decoders leave it
    found = Clips(decoded, clips.captions).foreground
    stacked = [np.stack(column) for column in zip(*map(_foreground, decoded), strict=True)]
    for field, one in zip(fields(found), stacked, strict=True):
        own = getattr(found, field.name)
        assert own.strides == one.strides and own.dtype == one.dtype and np.array_equal(own, one), field.name
