"""Stages as folders: skipped when done, done again when anything changed, whole after a kill at any point."""

from __future__ import annotations

import errno
import json

import pytest

from flc.errors import UserError
from flc.run.compress import LOCK
from flc.run.folders import DONE, FINGERPRINT, check_resumed, fingerprint, run_stage
from flc.train.launch import Ranks


@pytest.fixture
def stage(tmp_path):
    """`stage(option)` runs and tells whether the work was done; it counts how often."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights.safetensors").write_bytes(b"1")

    def run(option=1, work=None):
        def write(folder):
            run.count += 1
            (folder / "result").write_text(str(option))

        return run_stage(tmp_path / "out", {"option": option}, {"model": source}, work or write)

    run.count, run.out, run.source, run.partial = 0, tmp_path / "out", source, tmp_path / ".partial-out"
    return run


def test_a_done_stage_is_skipped_until_an_option_or_an_input_changes(stage):
    assert stage() and not stage() and stage.count == 1
    assert stage(2) and (stage.out / "result").read_text() == "2"
    (stage.source / "weights.safetensors").write_bytes(b"2")
    assert stage(2) and stage.count == 3
    assert not stage.partial.exists()


def test_a_failed_stage_leaves_no_result_and_its_partial_work_is_found_again(stage):
    def fail(folder):
        (folder / "checkpoints").mkdir()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        stage(work=fail)
    assert not stage.out.exists()

    def go_on(folder):
        assert (folder / "checkpoints").exists(), "the same stage goes on where it was"

    stage(work=go_on)
    assert not (stage.out / "checkpoints").exists() and not (stage.out / FINGERPRINT).exists()


def test_what_the_leader_found_decides_for_a_rank_that_looks_later(stage):
    """A run was killed between its last word and its renaming: when the other rank looks, the leader has renamed."""
    heard = []

    class Second(Ranks):
        def shared(self, text):
            heard.append(json.loads(text))
            return json.dumps([["made", {}], ""])

    def never(folder):
        raise AssertionError("the leader is not in its work")

    assert not run_stage(stage.out, {"option": 1}, {"model": stage.source}, never, Second(1, 2))
    assert heard == [[None, ""]] and not stage.out.exists() and not stage.partial.exists()


@pytest.mark.parametrize("text", ["{}", "[]", "5", '{"fingerprint": 3}', "\x80", '{"fingerprint": {"options": {}}}'])
def test_a_stage_whose_mark_is_damaged_is_made_again(stage, text):
    stage()
    (stage.out / DONE).write_text(text, encoding="latin-1")
    assert stage() and stage.count == 2 and not stage()


def test_partial_work_of_other_options_is_dropped(stage):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        stage(1, work=fail)
    stage(2)
    assert not (stage.out / "half").exists()


@pytest.mark.parametrize("killed_after", ["done.json", "checkpoints removed", "old result removed"])
def test_a_kill_while_settling_loses_nothing(stage, killed_after):
    stage(0)  # an older result in the way
    mark = fingerprint({"option": 1}, {"model": stage.source})
    stage.partial.mkdir()
    (stage.partial / "result").write_text("1")
    (stage.partial / FINGERPRINT).write_text(json.dumps(mark))
    (stage.partial / "checkpoints").mkdir()
    (stage.partial / DONE).write_text(json.dumps({"fingerprint": mark}))
    if killed_after != "done.json":
        (stage.partial / "checkpoints").rmdir()
    if killed_after == "old result removed":
        stage.out.rename(stage.out.with_name(".old-out"))
    assert not stage(1), "the work is not done again"
    assert (stage.out / "result").read_text() == "1" and stage.count == 1
    assert not stage.partial.exists()


def stop(folder):
    (folder / "checkpoints" / "step-7").mkdir(parents=True)
    (folder / "checkpoints" / "step-7" / "state.json").write_text("{}")
    (folder / "checkpoints" / "latest").write_text("step-7")
    raise RuntimeError("in the middle")


def test_a_stopped_training_is_not_thrown_away_for_other_options(stage):
    with pytest.raises(RuntimeError):
        stage(1, work=stop)
    with pytest.raises(UserError, match="stopped training with another option: go on with the former, or remove"):
        stage(2)
    assert (stage.partial / "checkpoints" / "step-7").exists() and stage.count == 0
    assert stage(1) and stage.count == 1


def test_a_finished_training_is_the_same_in_another_place_and_a_stopped_one_goes_on_where_it_was(tmp_path):
    made = []

    def run(world, work):
        return run_stage(tmp_path / "out", {"lr": 1, "world": world, "device": "cpu"}, {}, work)

    with pytest.raises(RuntimeError):
        run(8, stop)
    with pytest.raises(UserError, match="stopped training with another world"):
        run(16, made.append)
    assert run(8, made.append) and not run(16, made.append) and len(made) == 1


def test_a_folder_that_is_no_stage_is_not_removed(stage):
    stage.out.mkdir()
    (stage.out / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no finished stage of a run: move it away"):
        stage()
    assert (stage.out / "precious.txt").exists() and stage.count == 0


def test_a_cut_off_fingerprint_starts_the_stage_again(stage):
    stage.partial.mkdir()
    (stage.partial / FINGERPRINT).write_text('{"opt')
    assert stage() and stage.count == 1


def test_a_full_disk_is_one_line(stage):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="no disk space left"):
        stage(work=full)

    def full_in_safetensors(folder):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(UserError, match="no disk space left"):
        stage(work=full_in_safetensors)


PLACES_OF_LINKS = [
    "prepare", "score/plan.json", "recipe.lock.yaml", ".partial-recover", "metrics.json", "prune/transformer",
    ".partial-recover/checkpoints/latest", "evaluate/videos/student/0.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", PLACES_OF_LINKS)
def test_a_link_in_a_runs_folder_is_refused(tmp_path, name):
    """Through it flc would write, read or remove elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / LOCK).touch()
    with pytest.raises(UserError, match=f"out/{name} is a link, which no run makes or follows"):
        check_resumed(tmp_path / "out", LOCK)


def test_the_runs_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "large-disk" / LOCK).touch()
    (tmp_path / "out").symlink_to(tmp_path / "large-disk")
    check_resumed(tmp_path / "out", LOCK)
