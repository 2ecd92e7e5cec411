"""What is kept of runs: which of it stands for a cell, and how it is written."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from benchmarks import common
from benchmarks.cells import Cell, Scale
from benchmarks.records import RUNS, Records, Wanted
from benchmarks.runner import Runs
from flc.errors import UserError
from tests.comparison.made import finish

TINY, OURS = Scale("tiny"), Cell("ours")


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs", TINY, 1)


@pytest.fixture
def lines(tmp_path):
    """`lines()`: those of the file; `lines(change)`: after `change(line)` of each."""
    path = tmp_path / "results" / RUNS

    def read(change=None):
        found = [json.loads(line) for line in path.read_text().splitlines()]
        for line in found if change else ():
            change(line)
        path.write_text("".join(json.dumps(line) + "\n" for line in found))
        return found

    return read


def test_one_run_has_one_line_sorted_by_what_it_is_and_its_seed(runs, lines):
    for seed in (2, 0, 1):
        finish(runs, Cell("any", {"steps": 2}), seed, 0.5)
        finish(runs, OURS, seed, 0.6)
    finish(runs, OURS, 0, 0.7)
    found = [(line["label"], line["seed"], line["average"]) for line in lines()]
    assert found == [("steps=2", s, 0.5) for s in (0, 1, 2)] + [
        ("the scale's own", s, a) for s, a in ((0, 0.7), (1, 0.6), (2, 0.6))
    ]


def test_a_changed_run_changes_its_own_line_alone(runs, tmp_path):
    for seed in (0, 1, 2):
        finish(runs, OURS, seed, 1 / 3)
    before = (tmp_path / "results" / RUNS).read_text().splitlines()
    finish(runs, OURS, 1, 2 / 3)
    after = (tmp_path / "results" / RUNS).read_text().splitlines()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert '"average": 0.666667' in after[1]


def test_a_run_stands_for_its_recipe_under_any_label_and_for_no_other(runs):
    finish(runs, OURS, 0, 0.5)
    assert runs.record(Cell("another table's name", {"steps": 4}), 0) == runs.record(OURS, 0) is not None
    assert runs.record(OURS, 1) is None and runs.record(Cell("c", {"steps": 2}), 0) is None
    assert runs.record(Cell("c", {"distiller": {"name": "dmd", "ratio": 9}}), 0) is None


def test_a_scale_that_changed_is_another_recipe(runs, tmp_path, monkeypatch):
    finish(runs, OURS, 0, 0.5)
    (tmp_path / "tiny.yaml").write_text((common.ROOT / "benchmarks" / "scales" / "tiny.yaml").read_text())
    monkeypatch.setattr("benchmarks.cells.SCALES", tmp_path)
    assert runs.record(OURS, 0) is not None
    with open(tmp_path / "tiny.yaml", "a") as file:
        file.write("height: 64\n")
    assert runs.record(OURS, 0) is None, "the line says with what it was made"
    finish(runs, OURS, 0, 0.6)
    assert runs.record(OURS, 0).average == 0.6
    assert len(runs.records.scales()) == 1, "of the recipe that no line differs from any more nothing is left"


def test_an_option_that_has_come_since_is_no_other_recipe_at_its_default(runs, monkeypatch):
    """The core must not bend for what was measured before it had an option."""
    finish(runs, OURS, 0, 0.5)
    wanted = Wanted(OURS.at(TINY, 0))
    wanted.now["distill.grace"] = wanted.default["distill.grace"] = 0
    monkeypatch.setattr("benchmarks.records.Wanted", lambda recipe: wanted)
    assert runs.record(OURS, 0) is not None
    wanted.now["distill.grace"] = 3
    assert runs.record(OURS, 0) is None
    assert runs.records.why_not(runs.records.all()[0], wanted) == "distill.grace was 0, is 3"


def test_an_option_that_is_gone_is_a_difference_where_it_was_on(runs, lines):
    finish(runs, OURS, 0, 0.5)
    lines(lambda line: line["recipe"].update({"distill": {"gone": False}}))
    assert runs.record(OURS, 0) is not None
    lines(lambda line: line["recipe"].update({"distill": {"gone": True}}))
    assert runs.record(OURS, 0) is None
    assert "distill.gone was True, and is no option today" in runs.records.why_not(
        runs.records.all()[0], Wanted(OURS.at(TINY, 0))
    )


def test_an_average_over_other_metrics_stands_for_no_run_of_today(runs, lines):
    finish(runs, OURS, 0, 0.5)
    lines(lambda line: line["averaged"].append("first_impression"))
    assert runs.record(OURS, 0) is None and runs.missing([OURS], [0]) == [(OURS, 0)]
    assert "other metrics" in runs.records.why_not(runs.records.all()[0], Wanted(OURS.at(TINY, 0)))


def test_what_is_laid_over_a_scale_is_a_run_of_its_own(runs):
    """A short try does not take the place of what is measured."""
    finish(runs, OURS, 0, 0.5)
    short = Runs(runs.cache, Scale("tiny", {"evaluate": {"clips": 8}}), 1)
    assert short.record(OURS, 0) is None
    finish(short, OURS, 0, 0.1)
    assert runs.record(OURS, 0).average == 0.5 and short.record(OURS, 0).average == 0.1


def test_the_clips_of_a_run_are_kept_beside_it_and_go_with_it(runs):
    clips = {"per_clip": {"caption_accuracy": [1.0, 0.5]}}
    record = finish(runs, OURS, 0, 0.5, **clips)
    assert np.array_equal(runs.records.clips(record), [1.0, 0.5]) and np.array_equal(runs.clips(OURS, 0), [1.0, 0.5])
    assert runs.clips(OURS, 1) is None
    finish(runs, OURS, 0, 0.5)
    assert runs.clips(OURS, 0) is None, "a run without them has no other's"


def test_a_file_that_was_spoilt_is_said_by_name(tmp_path, runs):
    finish(runs, OURS, 0, 0.5)
    path = tmp_path / "results" / RUNS
    path.write_text(path.read_text() + "{")
    with pytest.raises(UserError, match=r"runs\.jsonl, line 2 is no JSON"):
        runs.records.all()
    path.write_text('{"label": "x"}\n')
    with pytest.raises(UserError, match="no run's: scale"):
        Records(tmp_path / "results").all()


def test_the_projects_own_file_is_sorted_and_says_of_each_run_what_it_is():
    records = Records(common.RESULTS)
    found = records.all()
    keys = [(r.scale, r.label, r.seed) for r in found]
    assert keys == sorted(keys) and max(Counter(keys).values()) == 1 and len(found) >= 100
    assert {f"{r.scale} {r.of}" for r in found} == set(records.scales())
    for record in found:
        assert record.commits and record.averaged and not any("+" in commit for commit in record.commits), record.label
        assert record.average == pytest.approx(
            np.mean([record.scores[name] for name in record.averaged if record.scores.get(name) is not None]), abs=2e-6
        ), f"{record.label}: rounded to six digits, as its scores are"
