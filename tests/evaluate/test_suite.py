"""A third party's metric that is broken: the others are scored, and the table says what is missing and why."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flc.api import Metric, Score
from flc.errors import PluginError
from flc.evaluate import suite
from flc.evaluate.clips import Clips
from flc.evaluate.sampling import Row


class Raising(Metric):
    def score(self, clips, reference):
        raise RuntimeError("no weights")


class Fixed(Metric):
    def score(self, clips, reference):
        return Score(0.5)


class Registry:
    """The needed metrics at .5, one that does not load, one that raises."""

    broken = "aesthetic"

    def names(self, kind):
        return sorted([*suite.NEEDED, "aesthetic", "raising"])

    def load(self, kind, name):
        if name == self.broken:
            raise PluginError(f"metric {name!r} cannot be loaded: ModuleNotFoundError")
        return Raising if name == "raising" else Fixed


@pytest.fixture
def registry(monkeypatch):
    found = Registry()
    monkeypatch.setattr(suite, "registry", lambda: found)
    return found


def test_it_is_na_with_its_cause_and_the_rest_is_scored(registry):
    video = np.zeros((2, 5, 16, 16, 3), np.float32)
    clips = Clips(video, ("a red circle moving left",) * 2, video[:, 0], np.zeros(2, bool))
    row = suite.score_row(Row("student", "student", None, None, 4, 1.0, 10), clips, clips, 0.1)
    assert row["scores"]["aesthetic"] is None and "cannot be loaded" in row["notes"]["aesthetic"]
    assert row["scores"]["raising"] is None and row["notes"]["raising"] == "failed: RuntimeError: no weights"
    assert row["average"] == 0.5 and all(row["scores"][name] == 0.5 for name in suite.NEEDED)


def test_one_that_the_table_needs_is_refused(registry, monkeypatch):
    monkeypatch.setattr(registry, "broken", "sharpness")
    with pytest.raises(PluginError, match="sharpness"):
        suite.metrics()
    with pytest.raises(RuntimeError):
        suite.scored("sharpness", Raising(), None, None)
    assert math.isnan(suite.scored("other", Raising(), None, None).value)


def test_a_run_is_warned_before_its_first_stage_and_one_without_a_table_is_not(registry, tmp_path, capsys):
    from flc.recipe import resolve
    from flc.run.compress import completed
    from flc.run.console import Console
    from flc.run.job import Job

    job = Job(completed(resolve({}, {}, {})), tmp_path / "out", Console())
    job.check(["evaluate"])
    assert "aesthetic will be n/a" in capsys.readouterr().err
    job.check(["score"])
    assert "aesthetic" not in capsys.readouterr().err
