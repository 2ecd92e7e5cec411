"""Files written whole or not at all: whatever line a kill falls on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flc.data.latents import read_captions, write_part
from flc.errors import UserError
from flc.files import whole, write_text
from flc.train import loop
from flc.train.health import BEST, Samples


def kills(folder: Path, work: Callable[[], Any]) -> Iterator[None]:
    """Do `work` once; then `folder` is, in turn, what a kill at each line of Python on the way, libraries' included,
    would have left: what is on the disk then, without what a file object still holds. At last it is as work left it."""
    seen: list[dict[Path, bytes | None]] = []

    def look() -> None:
        now = {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
        if not seen or seen[-1] != now:
            seen.append(now)

    def trace(frame: Any, event: str, argument: Any) -> Any:
        sys.settrace(None)
        look()
        sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    look()
    assert len(seen) > 2, "before, under another name, and as it was to be"
    for state in seen:
        shutil.rmtree(folder)
        folder.mkdir()
        for path, held in state.items():
            path.mkdir() if held is None else path.write_bytes(held)
        yield


COST = loop.Cost(1.0, 3)
WINDOW = {"loss": (0.1 + 0.2, 2)}
STEPS = range(1, 8)
LINES = [json.dumps({"step": step, "loss": step / 3}) + "\n" for step in STEPS]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def saved(folder: Path, step: int) -> None:
    """A checkpoint, as `restore` sees it."""
    (folder / f"step-{step:07d}").mkdir()
    (folder / f"step-{step:07d}" / "state.json").write_text(
        json.dumps({"step": step, **asdict(COST), "window": WINDOW})
    )
    (folder / loop.LATEST).write_text(f"step-{step:07d}")


ENGINE: Any = SimpleNamespace(rank=0, load=lambda path: None)


def test_a_kill_at_any_point_of_resuming_leaves_a_log_from_which_the_next_resuming_makes_the_same(folder):
    """Until a checkpoint is newer, the lines up to the last one are nowhere else."""
    saved(folder, 5)
    (folder / loop.LOG).write_text("".join(LINES) + '{"step": 8, "lo')
    for _ in kills(folder, lambda: loop.restore(folder, ENGINE)):
        assert loop.restore(folder, ENGINE) == (5, COST, WINDOW)
        assert (folder / loop.LOG).read_text() == "".join(LINES[:5])


@pytest.mark.parametrize(
    "state",
    ["", "[]", "5", "{}", '{"step": "x", "seconds": 1, "evaluations": 1, "window": {}}', "[" * 5000,
     '{"step": 5, "seconds": 1, "evaluations": 1e999, "window": {}}',
     '{"step": 5, "seconds": 1, "evaluations": 1, "window": [["loss", 1, 1]]}',
     '{"step": 5, "seconds": 1, "evaluations": 1, "window": {"loss": [1]}}'],
)  # fmt: skip
def test_a_damaged_state_of_a_checkpoint_is_one_line(folder, state):
    saved(folder, 5)
    (folder / "step-0000005" / "state.json").write_text(state)
    with pytest.raises(UserError, match=r"state.json is damaged: delete .* to start this stage again"):
        loop.restore(folder, ENGINE)


def test_a_checkpoint_of_another_version_is_called_that_and_not_damaged(folder):
    saved(folder, 5)
    (folder / "step-0000005" / "state.json").write_text('{"step": 5, "seconds": 1.5}')
    with pytest.raises(UserError) as caught:
        loop.restore(folder, ENGINE)
    assert "state.json has no evaluations, window, so another version of flc wrote it: go on with" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(("odd", "why"), [("large", "larger than 0.001 MB"), ("device", "no regular file")])
def test_a_log_that_never_ends_is_not_read_whole(folder, monkeypatch, odd, why):
    saved(folder, 5)
    monkeypatch.setattr(loop, "LIST", 1000)
    if odd == "large":
        (folder / loop.LOG).write_text("".join(LINES) * 100)
    else:
        (folder / loop.LOG).symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"log.jsonl cannot be read .*{why}.*: move it away to go on without it"):
        loop.restore(folder, ENGINE)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "step-0000009", ""])
def test_the_pointer_names_a_checkpoint_beside_it_or_is_refused(folder, name):
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "state.json").write_text("{}")
    (folder / loop.LATEST).write_text(name)
    with pytest.raises(UserError, match="which is missing: delete"):
        loop.checkpoint_path(folder)


@pytest.mark.parametrize("end", ["\0\0\0\0", "[5]", '{"step": null}', '{"loss": 1}', "\udc80", "5}", "[" * 10**5])
def test_a_damaged_line_of_the_log_is_dropped(folder, end):
    """What a power cut leaves of a file's end is not always text."""
    saved(folder, 7)
    (folder / loop.LOG).write_bytes(("".join(LINES) + end).encode(errors="surrogateescape"))
    assert loop.restore(folder, ENGINE)[0] == 7
    assert (folder / loop.LOG).read_text() == "".join(LINES)


def test_a_kill_at_any_point_of_publishing_leaves_the_checkpoint_before_or_the_new_one(folder):
    saved(folder, 2)
    (folder / ".step-0000004").mkdir()
    (folder / ".step-0000004" / "student.safetensors").write_bytes(b"4")
    steps = []
    for _ in kills(folder, lambda: loop.publish(folder, folder / ".step-0000004", 4, COST, WINDOW)):
        steps.append(loop.restore(folder, ENGINE)[0])
    assert sorted(steps) == steps and set(steps) == {2, 4}


def test_a_kill_at_any_point_of_a_check_leaves_a_record_and_the_weights_that_it_speaks_of(folder):
    health = Samples.__new__(Samples)
    health.folder = folder
    health.remember(2, {"motion": 3.0}, {"w": torch.full((2,), 2.0)})
    steps = []
    for _ in kills(folder, lambda: health.remember(4, {"motion": 1.5}, {"w": torch.full((2,), 4.0)})):
        steps.append(health.record()["step"])
        assert load_file(folder / BEST)["w"].tolist() in ([steps[-1]] * 2, [4, 4])
    assert sorted(steps) == steps and set(steps) == {2, 4}


def test_a_kill_at_any_point_of_writing_a_part_leaves_none_or_a_whole_one(folder):
    part = folder / "000000-000001.safetensors"
    for _ in kills(folder, lambda: write_part(part, {"latents": torch.ones(1, 2)}, ["a cat"])):
        assert not part.exists() or read_captions(part) == ["a cat"]
    assert part.exists()


def test_what_is_written_is_on_the_disk_before_its_name_is_and_then_the_folder(tmp_path, monkeypatch):
    done: list[tuple[str, Path]] = []
    monkeypatch.setattr("flc.files.sync", lambda path: done.append(("sync", path)))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: done.append(("replace", a)) or replace(a, b))
    write_text(tmp_path / "a.json", "1")
    new = done[0][1]
    assert done == [("sync", new), ("replace", new), ("sync", tmp_path)] and new.parent == tmp_path
    assert new.name != "a.json"


def test_an_error_while_writing_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(RuntimeError), whole(tmp_path / "a.json") as new:
        new.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_two_who_write_one_file_at_once_do_not_write_into_each_others(tmp_path):
    path = tmp_path / "a.json"
    with whole(path) as first:
        first.write_text("of the first")
        with whole(path) as second:
            second.write_text("half")
            first.write_text("all of the first's")
        assert path.read_text() == "half", "the second's, whole when its block ended"
    assert path.read_text() == "all of the first's" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_another_writes_is_not(tmp_path):
    path = tmp_path / "a.json"
    writer = "import sys; from flc.files import whole\n"
    writer += "with whole(__import__('pathlib').Path(sys.argv[1])) as new:\n"
    writer += "    new.write_text('half'); print(new, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", writer, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        write_text(path, "mine")
        assert left.read_text() == "half" and path.read_text() == "mine"
        other.kill()
    assert left.exists()
    (tmp_path / "b-a.json").write_text("another file")
    write_text(path, "again")
    assert not left.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b-a.json"]


def test_a_file_is_made_with_the_rights_that_the_user_gives_new_ones(tmp_path):
    (tmp_path / "plain").write_text("1")
    write_text(tmp_path / "a.json", "1")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a.json", ".new-00000000-a.json"])
def test_a_link_in_the_place_of_a_file_is_not_written_through(tmp_path, name):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "out" / "a.json", "mine")
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert (tmp_path / "out" / "a.json").read_text() == "mine" and not (tmp_path / "out" / "a.json").is_symlink()
