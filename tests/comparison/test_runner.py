"""Cells run: what is missing, what runs have in common, how they fail, and what is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import common
from benchmarks.cells import Cell, Scale
from benchmarks.runner import STAGES, Runs, cache
from flc.registry import registry
from tests.comparison.made import finish, leave, row

TINY = Scale("tiny")


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs", TINY, 1)


def finishing(average=0.5):
    """In place of `flc`: a run that ends at once."""

    def call(self, arguments, out):
        leave(out, average)
        return 0

    return call


def test_a_finished_run_is_kept_and_not_run_again_but_where_its_clips_are_shown(tmp_path, monkeypatch):
    """On another machine what is kept stands for it."""
    monkeypatch.setattr(Runs, "_call", finishing())
    here, there, cell = Runs(tmp_path / "here", TINY, 1), Runs(tmp_path / "there", TINY, 1), Cell("one")
    here.run([cell], [0])
    assert here.missing([cell], [0]) == there.missing([cell], [0]) == []
    assert there.missing([cell], [0], whole=True) == [(cell, 0)] and here.missing([cell], [0], whole=True) == []
    assert there.row(cell, 0, whole=True) == {"error": "not run"}, "its clips are on the other machine"
    assert here.row(cell, 0, whole=True)["average"] == there.row(cell, 0)["average"] == 0.5
    assert here.commits([cell], [0]) == ["abc"]


def test_what_is_kept_of_a_run_is_what_its_files_say(runs, monkeypatch):
    monkeypatch.setattr(Runs, "_call", finishing(0.123456789))
    runs.run([Cell("one", {"steps": 2})], [3])
    kept = runs.record(Cell("whatever", {"steps": 2}), 3)
    assert (kept.label, kept.seed, kept.scale, kept.recipe) == ("steps=2", 3, "tiny", {"steps": 2})
    assert kept.average == 0.123457, "six digits"
    assert kept.seconds == {"recover": 60.0, "distill": 60.0}
    assert kept.block_evaluations == {"score": 12.0, "recover": 100.0, "distill": 100.0}
    assert (kept.kept, kept.block_scores, kept.baseline) == ({"blocks": (0, 1)}, {"blocks": (3.0, 0.1, 0.2)}, 0.05)
    assert kept.machine == "abacus, torch 2" and kept.removal["pruned"] == 0.2


def test_runs_lie_outside_of_the_tree_where_nothing_else_is_said(tmp_path, monkeypatch):
    for name, value, place in (
        ("FLC_CACHE", tmp_path / "own", tmp_path / "own"),
        ("XDG_CACHE_HOME", tmp_path / "user", tmp_path / "user" / "flc" / "benchmarks"),
        ("HOME", tmp_path, tmp_path / ".cache" / "flc" / "benchmarks"),
    ):
        monkeypatch.setenv(name, str(value))
        assert cache() == place == Runs(None, TINY, 1).cache
        monkeypatch.delenv(name)
    monkeypatch.undo()
    assert common.ROOT not in cache().parents


def test_no_run_is_committed_to_git(runs, monkeypatch):
    """Whatever is asked of a runner, git's history is the user's."""
    monkeypatch.setattr(Runs, "_call", finishing())
    called, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: called.append(command) or run(command, **more))
    runs.run([Cell("one"), Cell("two", {"steps": 2})], [0])
    assert not any("commit" in command or "add" in command for command in called)


def test_all_stages_that_cells_have_in_common_are_in_one_store(runs, monkeypatch):
    called = []

    def call(self, arguments, out):
        called.append(arguments)
        return finishing()(self, arguments, out)

    monkeypatch.setattr(Runs, "_call", call)
    runs.run([Cell("one"), Cell("two", {"keep": 0.5})], [0])
    stores = {arguments[arguments.index("--store") + 1] for arguments in called}
    assert stores == {str(runs.cache / STAGES)} and all("--resume" in arguments for arguments in called)


def test_one_cell_of_each_group_that_shares_stage_two_goes_first(runs, monkeypatch):
    """The others find that done; two at a time would wait for each other."""
    order = []

    def call(self, arguments, out):
        order.append(out)
        return finishing()(self, arguments, out)

    monkeypatch.setattr(Runs, "_call", call)
    ours, codmd, half, other = Cell("ours"), Cell("codmd", {"distiller": "codmd"}), Cell("half", {"keep": 0.5}), (
        Cell("other", {"keep": 0.5, "distiller": "codmd"}))  # fmt: skip
    runs.run([ours, codmd, half, other], [0])
    assert order == [runs.path(cell, 0) for cell in (ours, half, codmd, other)]


def test_a_suite_that_measured_a_part_is_asked_again_and_only_the_whole_is_kept(runs, monkeypatch):
    found = [row(None, scores={"x": None}, notes={"x": "HTTP 403"}), row(0.5, scores={"x": 0.5})]

    def call(self, arguments, out):
        leave(out, **found.pop(0) | {"seconds": 1.0})
        return int(bool(found))

    monkeypatch.setattr(Runs, "_call", call)
    cell = Cell("one")
    runs.run([cell], [0])
    assert runs.row(cell, 0) == {"error": "HTTP 403"} and runs.record(cell, 0) is None
    assert runs.missing([cell], [0]) == [(cell, 0)]
    again = Runs(runs.cache, TINY, 1)
    again.run([cell], [0])
    assert again.row(cell, 0)["average"] == 0.5 and again.missing([cell], [0]) == []


def test_a_stage_in_common_that_fails_is_tried_once_and_each_cell_says_why(runs, monkeypatch):
    """In flc's words, whatever the launcher says after them."""
    called = []

    def fail(self, arguments, out):
        called.append(out)
        (out / "log.txt").write_text("flc: error: loss is not finite\n[ERROR] [launch.py] exits with return code = 1\n")
        return 1

    monkeypatch.setattr(Runs, "_call", fail)
    cells = [Cell("one"), Cell("other", {"distiller": "codmd"})]
    runs.run(cells, [0])
    assert called == [runs.path(cells[0], 0)]
    assert [runs.row(cell, 0) for cell in cells] == [{"error": "flc: error: loss is not finite"}] * 2


def test_a_cell_that_failed_in_stage_three_is_not_run_again_in_one_command_and_spoils_no_other(runs, monkeypatch):
    """A figure asks for its cells, and the table that it is drawn from asks again."""
    called = []

    def fail(self, arguments, out):
        called.append(out)
        (out / "recover").mkdir(exist_ok=True)
        (out / "recover" / "done.json").write_text("{}")
        (out / "log.txt").write_text("flc: error: loss is not finite\n")
        return 1

    monkeypatch.setattr(Runs, "_call", fail)
    cells = [Cell("one"), Cell("other", {"distiller": "codmd"})]
    for _ in range(2):
        runs.run(cells, [0])
        assert runs.row(cells[0], 0) == {"error": "flc: error: loss is not finite"}
    assert called == [runs.path(cell, 0) for cell in cells]


@pytest.fixture
def no_torch_pruning(monkeypatch):
    """The registry reads the width pruner anew, and does not find what it needs."""
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.delitem(sys.modules, "flc_baselines.width", raising=False)
    registry.cache_clear()
    yield
    registry.cache_clear()


def test_a_cell_whose_extra_is_missing_says_so_and_the_others_are_run(runs, monkeypatch, no_torch_pruning):
    monkeypatch.setattr(Runs, "_call", finishing())
    narrow, plain = Cell("narrow", {"pruner": "width"}), Cell("plain")
    assert [cell for cell, _ in runs.missing([narrow, plain], [0])] == [narrow, plain]
    runs.run([narrow, plain], [0])
    assert "pip install 'flc[prune]'" in runs.row(narrow, 0)["error"] and runs.row(plain, 0)["average"] == 0.5
    assert len(runs.commits([narrow, plain], [0])) == 1
    said = runs.dry([narrow], 0)["narrow"]
    assert said.startswith("failed: ") and "flc[prune]" in said


def test_a_launch_on_hosts_that_no_file_names_is_refused_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.cells.ROOT", tmp_path)
    scale = Scale("wan-14b")
    with pytest.raises(SystemExit, match="hosts is missing"):
        Runs(tmp_path / "runs", scale, 1).run([Cell("one")], [0])
    assert not (tmp_path / "runs").exists()
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    scale.check_hosts()


def test_a_dry_run_says_what_is_wrong_with_a_cell(tmp_path):
    runs = Runs(tmp_path, Scale("tiny", {"model": str(tmp_path / "absent")}), 1)
    said = runs.dry([Cell("ours")], 0)["ours"]
    assert said.startswith("failed: ") and "absent does not exist" in said


def test_a_run_names_the_commits_of_the_stages_that_it_took(tmp_path, monkeypatch):
    """A stage is of the run that made it, whoever links it later."""
    under = ["first"]
    monkeypatch.setattr("benchmarks.runner.commit", lambda: under[0])
    runs = Runs(tmp_path / "runs", TINY, 1)
    finish(runs, Cell("one"), 0, 0.5)
    under[0] = "second"
    taker = Cell("two", {"distiller": "codmd"})
    out, first = runs.path(taker, 0), runs.path(Cell("one"), 0)
    finish(runs, taker, 0, 0.5)
    assert runs.record(taker, 0).commits == ("second",), "all of it was made anew"
    for stage in ("score", "recover"):
        (out / stage / "done.json").write_bytes((first / stage / "done.json").read_bytes())
    runs._keep(taker, taker.at(TINY, 0), out)
    assert runs.record(taker, 0).commits == ("first", "second")
