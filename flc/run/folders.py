"""A stage is a function from folders to a folder: written under a temporary name, synced, renamed.

`done.json` inside holds a fingerprint of the stage's options and inputs. Running again skips a stage whose
fingerprint is the same; a stage cut off at any moment starts again, or goes on from its last checkpoint,
which lives in the temporary folder and is dropped when the stage is done. A store (`store.py`) holds the
stages of several runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from flc.errors import UserError, out_of_space
from flc.files import parse_json, read_text, sync, sync_tree, write_text
from flc.run.fingerprints import DONE, ClipsOf, fingerprint_of
from flc.run.store import alone, link, name_in_store
from flc.train.launch import Ranks
from flc.train.loop import CHECKPOINTS, checkpoint_path

PARTIAL, OLD, FINGERPRINT = ".partial-", ".old-", "fingerprint.json"
#: Options that say where a stage ran: a training goes on as it began, a finished one serves anywhere.
PLACES = {"world", "device"}


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a fingerprint holds them."""
    return json.loads(json.dumps(options, default=str))


def fingerprint(options: Mapping[str, Any], inputs: Mapping[str, Path | ClipsOf]) -> dict[str, Any]:
    read = {name: fingerprint_of(place) for name, place in inputs.items()}
    return {"options": as_json(options), "inputs": read}


def read_mark(path: Path) -> dict[str, Any] | None:
    """The options and inputs that a stage was made with: of its `done.json`, or of `fingerprint.json` while it is being
    made; None when the file is missing, was cut off, or holds anything else."""
    try:
        mark = parse_json(read_text(path))
        mark = mark["fingerprint"] if path.name == DONE else mark
        return mark if isinstance(mark["options"], dict) and isinstance(mark["inputs"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):  # ValueError: not JSON, or not text at all
        return None


def is_done(folder: Path, mark: dict[str, Any]) -> bool:
    return read_mark(folder / DONE) == mark


def is_done_anywhere(folder: Path, mark: dict[str, Any]) -> bool:
    """A finished training is not thrown away because the run goes on in another place."""
    found = read_mark(folder / DONE)
    return found is not None and without_places(found) == without_places(mark)


def without_places(mark: dict[str, Any]) -> dict[str, Any]:
    return mark | {"options": {k: v for k, v in mark["options"].items() if k not in PLACES}}


ALONE = Ranks()


def run_stage(
    final: Path,
    options: Mapping[str, Any],
    inputs: Mapping[str, Path | ClipsOf],
    work: Callable[[Path], dict[str, Any] | None],
    ranks: Ranks = ALONE,
    store: Path | None = None,
) -> bool:
    """Run `work(temporary folder)` unless `final`, or the `store`, holds the same stage already. Whether it ran.

    `work` may return facts that are kept in done.json. Only the leader rank touches the folders' names, and what it
    finds there decides for all: another one may look when they are other ones already. `UserError` where this would
    remove a folder that is no stage's, or a training that was stopped.
    """
    partial, leader = final.with_name(PARTIAL + final.name), ranks.leader

    def look() -> tuple[str, dict[str, Any]]:
        mark = fingerprint(options, inputs)
        if is_done_anywhere(final, mark):
            return "done", mark
        if is_done(partial, mark):
            return "made", mark
        if final.exists() and not (final / DONE).exists():
            raise UserError(f"{final} holds no finished stage of a run: move it away, or give another --out")
        check_stopped(partial, mark)
        return "nothing", mark

    found, mark = ranks.agreed(look)
    if found == "made" and leader:  # killed between its last word and its renaming
        settle(partial, final)
    if found != "nothing":
        return False
    if store is not None and not ranks.shared("here" if stopped(partial) else ""):  # it goes on where it was begun
        made = store / name_in_store(final.name, without_places(mark))
        with alone(made, ranks):
            ran = run_stage(made, options, inputs, work, ranks)
        if leader:
            link(made, partial)
            sync_tree(partial)
            settle(partial, final)
        ranks.barrier()
        return ran
    try:
        if leader and read_mark(partial / FINGERPRINT) != mark:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            sync(partial.parent)  # or the folder, and with it every checkpoint, may be gone after a power cut
            write_text(partial / FINGERPRINT, json.dumps(mark))
        facts = work(partial) or {}
        if leader:
            sync_tree(partial)
            write_text(partial / DONE, json.dumps({"fingerprint": mark, **facts}, indent=1))
            settle(partial, final)
    except (OSError, SafetensorError) as error:
        if out_of_space(error):
            text = f"no disk space left under {final.parent}: free some and run again with --resume"
            raise UserError(text) from error
        raise
    return True


def stopped(partial: Path) -> dict[str, Any] | None:
    """What a training that was stopped, and can go on, was begun with."""
    return read_mark(partial / FINGERPRINT) if checkpoint_path(partial / CHECKPOINTS) is not None else None


def check_stopped(partial: Path, mark: Mapping[str, Any]) -> None:
    """Hours of training are not thrown away because an option (or an input) of the mark is another one now. All ranks
    see the same."""
    before = stopped(partial)
    pairs = ((before[part], mark[part]) for part in mark) if before else ()
    other = ", ".join(key for was, now in pairs for key in was | now if was.get(key) != now.get(key))
    if other:
        raise UserError(
            f"{partial} holds a stopped training with another {other}: go on with the former, or remove that folder"
        )


@contextmanager
def held(out: Path) -> Iterator[None]:
    """No second process works in the folder meanwhile. However this one ends, the system lets go of it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"another flc works in --out {out}: wait for it, or give another folder") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(descriptor)


def settle(partial: Path, final: Path) -> None:
    """From a partial folder with done.json to the final one; every step may be repeated after a kill."""
    old = final.with_name(OLD + final.name)  # a stage that is there is whole: it goes under another name
    shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
    (partial / FINGERPRINT).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def nearest_existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def check_out(out: Path, resume: bool) -> None:
    """Refuse an --out that is a file or lies under one, and one in use unless the run is resumed."""
    try:
        there = nearest_existing(out)
        used = there == out.absolute() and there.is_dir() and any(out.iterdir())
    except OSError as error:
        raise UserError(f"--out {out} cannot be used: {error.strerror}") from error
    if not there.is_dir():
        raise UserError(f"--out {out}: {there} is a file: give a folder")
    if used and not resume:
        raise UserError(f"--out {out} is not empty: give another folder, or --resume to go on in it")


def check_store(store: Path) -> None:
    """Refuse a --store that no stage could be written into."""
    try:
        there = nearest_existing(store)
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"--store {store} cannot be used: {error.strerror}") from error
    if not usable:
        raise UserError(f"--store {store}: {there} is no folder that can be written to: give another one")


def check_links(out: Path) -> None:
    """No link in the folder: through one a stage would write, read or be removed elsewhere. (`out` itself may be
    one.)"""
    for place, folders, names in os.walk(out):
        for path in (Path(place, name) for name in (*folders, *names)):
            if path.is_symlink():
                raise UserError(f"{path} is a link, which no run makes or follows: put what it leads to in its place")


def check_resumed(out: Path, lock: str) -> None:
    """A run that is to go on has a folder with its lock file, or nothing yet: a wrong name must not start it anew."""
    if not out.exists():
        raise UserError(f"--out {out} does not exist, there is nothing to resume: mend its name, or leave --resume out")
    if not (out / lock).exists() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise UserError(f"--out {out} has no {lock}, so it holds no run to go on with: mend its name")
    check_links(out)


def require(folder: Path, what: str, hint: str) -> Path:
    if not folder.exists():
        raise UserError(f"{folder} does not exist: {what} comes from {hint}")
    return folder
