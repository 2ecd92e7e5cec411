"""Cells of a comparison: what they are made of, what they share, and how they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.cells import Cell, Runs, Scale, stem_of, take
from flc.errors import UserError
from flc.recipe import resolve
from flc.registry import registry

TINY = Scale("tiny")


def test_a_cells_own_options_are_over_the_scales_and_those_over_the_presets(tmp_path, monkeypatch):
    preset = resolve({}, {}, {}).distiller.options["fake_lr"]
    (tmp_path / "mine.yaml").write_text(
        "distill: {iterations: 7}\nalgorithms: {distiller: {dmd: {lr: 0.5, ratio: 9}}, teacher: {cfg: {scale: 3}}}\n"
    )
    monkeypatch.setattr("benchmarks.cells.SCALES", tmp_path)
    plain, own = (Cell("c", v).at(Scale("mine"), 3) for v in ({}, {"distiller": {"name": "dmd", "lr": 0.25}}))
    assert (plain.distill.iterations, plain.seed) == (7, 3)
    assert (plain.distiller.options["lr"], plain.distiller.options["ratio"]) == (0.5, 9)
    assert (own.distiller.options["lr"], own.distiller.options["ratio"]) == (0.25, 9)
    assert plain.distiller.options["fake_lr"] == preset
    assert Cell("c", {"teacher": "cfg"}).at(Scale("mine"), 0).teacher.options["scale"] == 3
    assert Cell("c").at(Scale("mine", {"distill": {"iterations": 8}}), 0).distill.iterations == 8


def test_cells_that_agree_up_to_stage_two_share_it():
    recipes = {
        name: Cell(name, values).at(TINY, 0)
        for name, values in {
            "ours": {},
            "codmd": {"distiller": "codmd"},
            "steps": {"steps": 2},
            "pruner": {"pruner": "random"},
            "keep": {"keep": 0.5},
            "recovery": {"recovery": {"name": "bernoulli", "alpha": 0.5}},
        }.items()
    }
    stems = {name: stem_of(recipe) for name, recipe in recipes.items()}
    assert stems["ours"] == stems["codmd"] == stems["steps"]
    assert len(set(stems.values())) == 4 and stem_of(Cell("ours").at(TINY, 1)) != stems["ours"]


def test_a_run_is_known_by_its_recipe_whatever_its_table_calls_it(tmp_path):
    runs = Runs(tmp_path, TINY, 1, tmp_path)
    one, two, other = Cell("one"), Cell("two", {"steps": 4}), Cell("other", {"steps": 2})
    assert runs.path(one, 0) == runs.path(two, 0) != runs.path(other, 0)
    assert [cell.label for cell, _ in runs.missing([one, two, other], [0])] == ["two", "other"]
    runs.path(one, 0).mkdir(parents=True)
    (runs.path(one, 0) / "metrics.json").write_text(json.dumps({"rows": [{"name": "student", "average": 0.5}]}))
    assert [cell.label for cell, _ in runs.missing([one, two, other], [0])] == ["other"]


def test_a_finished_cell_is_kept_and_needs_no_second_run_but_where_its_clips_are_shown(tmp_path, monkeypatch):
    """What is kept is what tables read: row, plan, declaration, commit; on another machine it stands in for the run."""
    cell, kept = Cell("one"), tmp_path / "kept"

    def finish(self, arguments, out):
        if arguments[0] == "compress":
            for name, text in {"metrics.json": {"rows": [{"name": "student", "average": 0.5}]},
                               "score/plan.json": {"kept": {"blocks": [0]}}, "pipeline/flc.json": {"steps": 4},
                               "pipeline/weights": {}}.items():  # fmt: skip
                (out / name).parent.mkdir(exist_ok=True)
                (out / name).write_text(json.dumps(text))
        return 0

    monkeypatch.setattr(Runs, "_call", finish)
    here = Runs(tmp_path / "here", TINY, 1, kept)
    here.run([cell], [0])
    assert here.found(cell, 0) == here.path(cell, 0)
    there = Runs(tmp_path / "there", TINY, 1, kept)
    assert there.missing([cell], [0]) == [] and there.missing([cell], [0], whole=True) == [(cell, 0)]
    assert there.row(cell, 0, whole=True) == {"error": "not run"}, "its clips are on the other machine"
    assert here.row(cell, 0, whole=True) == there.row(cell, 0)
    assert there.row(cell, 0)["average"] == 0.5 and there.commits([cell], [0]) == here.commits([cell], [0]) != []
    files = sorted(str(p.relative_to(there.found(cell, 0))) for p in there.found(cell, 0).rglob("*") if p.is_file())
    assert files == ["commit.txt", "metrics.json", "pipeline/flc.json", "score/plan.json"]


def test_a_run_is_the_same_wherever_weights_clips_and_vbench_lie():
    def path(**over):
        return Runs(Path("runs"), Scale("wan-14b", over), 1).path(Cell("c"), 0)

    here = path(model="/a/Wan", data="/a/clips")
    assert here == path(model="/b/c/Wan", data="clips", evaluate={"vbench_python": "/v/python", "vbench_data": "/v"})
    others = [path(model="/a/Wan2", data="/a/clips"), path(model="/a/Wan", data="/a/clips", evaluate={"batch": 2})]
    assert len({here, *others}) == 3


@pytest.mark.parametrize(("distiller", "same"), [("dmd", True), ("codmd", False)])
def test_the_parts_of_a_batch_count_only_where_a_loss_compares_its_clips(distiller, same):
    one, two = (
        Runs(Path("runs"), TINY, 1).path(Cell("c", {"distiller": distiller, "distill": {"accumulate": parts}}), 0)
        for parts in (1, 2)
    )
    assert (one == two) == same


def test_a_suite_that_measured_a_part_is_asked_again_and_only_the_whole_is_kept(tmp_path, monkeypatch):
    cell, said = Cell("one"), [{"name": "student", "average": None, "scores": {"x": None}, "notes": {"x": "HTTP 403"}}]
    found = [*said, {"name": "student", "average": 0.5, "scores": {"x": 0.5}}]

    def finish(self, arguments, out):
        if "--until" not in arguments:
            (out / "metrics.json").write_text(json.dumps({"rows": [found.pop(0)]}))
        return 0

    monkeypatch.setattr(Runs, "_call", finish)
    runs = Runs(tmp_path / "runs", TINY, 1, tmp_path / "kept")
    runs.run([cell], [0])
    assert runs.row(cell, 0) == {"error": "HTTP 403"} and not runs.kept.exists()
    assert runs.missing([cell], [0]) == [(cell, 0)]
    runs.run([cell], [0])
    assert runs.row(cell, 0)["average"] == 0.5 and runs.missing([cell], [0]) == [] and runs.kept.exists()


def test_a_shared_stage_that_fails_is_tried_once_and_each_cell_says_why(tmp_path, monkeypatch):
    """In flc's words, whatever the launcher says after them."""
    called = []

    def fail(self, arguments, out):
        called.append(arguments[:3])
        (out / "log.txt").write_text("flc: error: loss is not finite\n[ERROR] [launch.py] exits with return code = 1\n")
        return 1

    monkeypatch.setattr(Runs, "_call", fail)
    runs = Runs(tmp_path / "runs", TINY, 1, tmp_path / "kept")
    cells = [Cell("one"), Cell("other", {"steps": 2})]
    runs.run(cells, [0])
    assert called == [["compress", "--until", "recover"]]
    assert [runs.row(cell, 0) for cell in cells] == [{"error": "flc: error: loss is not finite"}] * 2


def test_a_cell_that_failed_is_not_run_again_in_one_command(tmp_path, monkeypatch):
    """A figure asks for its cells, and the table that it is drawn from asks again."""
    called = []

    def fail(self, arguments, out):
        called.append(out.name)
        (out / "log.txt").write_text("flc: error: loss is not finite\n")
        return int(("--until" in arguments) == shared)

    monkeypatch.setattr(Runs, "_call", fail)
    for shared in (False, True):
        runs, cell = Runs(tmp_path / f"runs {shared}", TINY, 1, tmp_path / "kept"), Cell("one")
        called.clear()
        for _ in range(2):
            runs.run([cell], [0])
            assert runs.row(cell, 0) == {"error": "flc: error: loss is not finite"}
        stem = f"stem-{stem_of(cell.at(TINY, 0))}"
        assert called == ([stem] if shared else [stem, runs.path(cell, 0).name])


@pytest.fixture
def no_torch_pruning(monkeypatch):
    """The registry reads the width pruner anew, and does not find what it needs."""
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.delitem(sys.modules, "flc_baselines.width", raising=False)
    registry.cache_clear()
    yield
    registry.cache_clear()


def test_a_cell_whose_extra_is_missing_says_so_and_the_others_are_run(tmp_path, monkeypatch, no_torch_pruning):
    def finish(self, arguments, out):
        (out / "metrics.json").write_text(json.dumps({"rows": [{"name": "student", "average": 0.5}]}))
        return 0

    monkeypatch.setattr(Runs, "_call", finish)
    runs = Runs(tmp_path / "runs", TINY, 1, tmp_path / "kept")
    narrow, plain = Cell("narrow", {"pruner": "width"}), Cell("plain")
    assert [cell for cell, _ in runs.missing([narrow, plain], [0])] == [narrow, plain]
    runs.run([narrow, plain], [0])
    assert "pip install 'flc[prune]'" in runs.row(narrow, 0)["error"] and runs.row(plain, 0)["average"] == 0.5
    assert len(runs.commits([narrow, plain], [0])) == 1
    said = runs.dry([narrow], 0)["narrow"]
    assert said.startswith("failed: ") and "flc[prune]" in said


def test_a_run_is_known_by_what_its_manifest_asks_for(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def path(place: str, text: str) -> Path:
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "m.jsonl").write_text(text)
        os.utime(tmp_path / place / "m.jsonl", ns=(0, len(seen)))  # a clock's tick is longer than this test
        over = {"evaluate": {"suite": "vbench", "manifest": str(tmp_path / place / "m.jsonl")}}
        seen.append(Runs(Path("runs"), Scale("wan-14b", over), 1).path(Cell("c"), 0))
        return seen[-1]

    seen: list[Path] = []
    boat = json.dumps({"prompt": "a boat"})
    assert path("here", boat) == path("there", boat + "\n")
    assert len({path("here", text) for text in (boat, json.dumps({"prompt": "a tree"}), "no JSON")}) == 3
    image = json.dumps({"prompt": "a boat", "image": "../a.png"})
    before = path("here", image)
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    assert path("here", image) != before


def test_a_launch_on_hosts_that_no_file_names_is_refused_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.cells.ROOT", tmp_path)
    scale = Scale("wan-14b")
    with pytest.raises(SystemExit, match="hosts is missing"):
        Runs(tmp_path / "runs", scale, 1, tmp_path / "kept").run([Cell("one")], [0])
    assert not (tmp_path / "runs").exists()
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    scale.check_hosts()


def test_clips_are_encoded_once_for_all_pruners_of_a_seed(tmp_path, monkeypatch):
    encoded = []

    def encode(self, arguments, out):
        if not (out / "data").exists():
            encoded.append(out.name)
            (out / "data").mkdir()
            (out / "data" / "done.json").write_text(out.name)
        return 0

    monkeypatch.setattr(Runs, "_call", encode)
    runs = Runs(tmp_path / "runs", TINY, 1, tmp_path / "kept")
    cells = [Cell("one"), Cell("other", {"pruner": "uniform"}), Cell("third", {"keep": 0.5})]
    runs.run(cells, [0, 1])
    assert len(encoded) == 2, "one a seed"
    for seed, first in enumerate(encoded):
        assert {(runs.path(c, seed) / "data" / "done.json").read_text() for c in cells} == {first}
    assert not list(runs.folder.rglob(".copy-*"))


def test_a_stage_that_is_not_done_or_is_there_is_not_taken(tmp_path):
    (tmp_path / "stage").mkdir()
    take(tmp_path / "stage", tmp_path / "place")
    assert not (tmp_path / "place").exists()
    (tmp_path / "stage" / "done.json").write_text("new")
    take(tmp_path / "stage", tmp_path / "place")
    (tmp_path / "stage" / "done.json").unlink()
    (tmp_path / "stage" / "done.json").write_text("newer")
    take(tmp_path / "stage", tmp_path / "place")
    assert (tmp_path / "place" / "done.json").read_text() == "new"


def test_what_is_kept_of_a_cell_is_committed_alone_as_it_ends(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("config", "user.name", "a")
    git("config", "user.email", "a@b.c")
    (tmp_path / "other").write_text("staged, and not of the cell")
    git("add", "other")

    def finish(self, arguments, out):
        (out / "metrics.json").write_text(json.dumps({"rows": [{"name": "student", "average": 0.5}]}))
        return 0

    monkeypatch.setattr(Runs, "_call", finish)
    cells = [Cell("one"), Cell("two", {"steps": 2})]
    Runs(tmp_path / "runs", TINY, 2, tmp_path / "kept").run(cells[:1], [0])
    assert git("log", "--all", "--format=%s") == "", "not asked for"
    Runs(tmp_path / "runs", TINY, 2, tmp_path / "kept", committing=True).run(cells, [0])
    assert sorted(git("log", "--format=%s").splitlines()) == ["tiny: one, seed 0", "tiny: two, seed 0"]
    assert git("log", "--name-only", "--format=").count("metrics.json") == 2 and "other" not in git("ls-tree", "HEAD")


def test_a_cell_that_cannot_be_is_refused_before_any_run():
    with pytest.raises(UserError, match="no pruner named 'elbow'"):
        Cell("c", {"pruner": "elbow"}).at(TINY, 0)


def test_a_dry_run_says_what_is_wrong_with_a_cell(tmp_path):
    runs = Runs(tmp_path, Scale("tiny", {"model": str(tmp_path / "absent")}), 1)
    said = runs.dry([Cell("ours")], 0)["ours"]
    assert said.startswith("failed: ") and "absent does not exist" in said
