"""Stages that runs have in common: made once, taken by all, by what they were made with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flc.errors import UserError
from flc.run.folders import DONE, run_stage


@pytest.fixture
def stage(tmp_path):
    """`stage(run, option)` runs one stage of a run with a store; `stage.made` lists the options it was really made
    with."""

    def run(name, option=1, work=None, stored=True, inputs=None):
        def write(folder):
            run.made.append(option)
            (folder / "result").write_text(str(option))
            return {"seconds": len(run.made)}

        out = tmp_path / name / "recover"
        out.parent.mkdir(exist_ok=True)
        options = {"option": option, "world": 1}
        return run_stage(out, options, inputs or {}, work or write, store=run.store if stored else None)

    run.made, run.store, run.runs = [], tmp_path / "store", tmp_path
    return run


def test_the_second_run_that_asks_for_a_stage_takes_the_firsts(stage):
    assert stage("a") and not stage("b") and stage.made == [1]
    files = [stage.runs / run / "recover" / "result" for run in ("a", "b")]
    assert os.path.samefile(*files), "once on the disk"
    assert (stage.runs / "b" / "recover" / DONE).read_bytes() == (stage.runs / "a" / "recover" / DONE).read_bytes(), (
        "so that what is made of it has one fingerprint in both"
    )
    assert stage("c", 2) and stage.made == [1, 2], "another option is another stage"
    assert not stage("b", 2) and (stage.runs / "b" / "recover" / "result").read_text() == "2", "a changed option, too"


def test_another_input_is_another_stage(stage, tmp_path):
    for text in ("one", "other"):
        (tmp_path / text).write_text(text)
        assert stage(f"of {text}", inputs={"plan": tmp_path / text})
    assert len(stage.made) == 2


def test_a_run_that_loses_its_folder_loses_nothing_of_the_store(stage):
    stage("a")
    (stage.runs / "a" / "recover" / "result").unlink()
    (stage.runs / "a" / "recover" / DONE).unlink()
    (stage.runs / "a" / "recover").rmdir()
    assert not stage("a") and (stage.runs / "a" / "recover" / "result").read_text() == "1"


def test_a_training_that_was_stopped_goes_on_in_the_store_whoever_asks_next(stage):
    def stop(folder):
        (folder / "checkpoints" / "step-7").mkdir(parents=True)
        (folder / "checkpoints" / "step-7" / "state.json").write_text("{}")
        (folder / "checkpoints" / "latest").write_text("step-7")
        raise KeyboardInterrupt

    def go_on(folder):
        assert (folder / "checkpoints" / "step-7").exists()
        (folder / "result").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        stage("a", work=stop)
    assert stage("b", work=go_on) and not stage("a")
    assert (stage.runs / "a" / "recover" / "result").read_text() == "whole"


def test_a_training_that_was_begun_without_the_store_goes_on_where_it_is(stage):
    def stop(folder):
        (folder / "checkpoints" / "step-7").mkdir(parents=True)
        (folder / "checkpoints" / "step-7" / "state.json").write_text("{}")
        (folder / "checkpoints" / "latest").write_text("step-7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("a", work=stop, stored=False)
    assert stage("a", work=lambda folder: (folder / "checkpoints" / "step-7").touch() or None)
    assert not stage.store.exists()


SECOND = """
import sys, time
from pathlib import Path
from flc.run.folders import run_stage
runs = Path(sys.argv[1])
def work(folder):
    (runs / "began").touch()
    time.sleep(1)
    (folder / "result").write_text("the other process's")
(runs / "other").mkdir()
run_stage(runs / "other" / "recover", {"option": 1, "world": 2}, {}, work, store=runs / "store")
"""


def test_a_run_waits_for_another_that_makes_the_same_stage_on_another_number_of_ranks(stage):
    other = subprocess.Popen([sys.executable, "-c", SECOND, str(stage.runs)])
    while not (stage.runs / "began").exists():
        assert other.poll() is None
        time.sleep(0.05)
    assert not stage("a") and stage.made == []
    assert (stage.runs / "a" / "recover" / "result").read_text() == "the other process's"
    assert other.wait() == 0
    assert json.loads((stage.runs / "a" / "recover" / DONE).read_text())["fingerprint"]["options"]["world"] == 2


def test_a_folder_that_is_no_stages_is_not_replaced_by_one_of_the_store(stage):
    stage("a")
    (stage.runs / "b" / "recover").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no finished stage"):
        stage("b")


@pytest.mark.parametrize("kept", [False, True], ids=["made here", "from a store"])
@pytest.mark.parametrize("links", [False, True], ids=["copies", "links"])
def test_a_stage_has_its_name_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch, kept, links):
    """Files' contents, and the names in every folder: by inode, as fsync was asked for them."""
    synced, renamed = set(), {}

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)

    def rename(source, target, plain=Path.rename):
        renamed[Path(target).name] = {p.name for p in [source, *source.rglob("*")] if p.stat().st_ino not in synced}
        return plain(source, target)

    def work(folder):
        assert folder.parent.stat().st_ino in synced, "a training's checkpoints lie in this folder"
        (folder / "transformer").mkdir()
        (folder / "transformer" / "weights").write_bytes(b"1" * 100)

    def refuse(*_):
        raise OSError

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", rename)
    run_stage(tmp_path / "out" / "prune", {}, {}, work, store=tmp_path / "store" if kept else None)
    assert renamed.pop("prune") == set() and all(not left for left in renamed.values())
