"""Files written whole or not at all, and files of strangers read within bounds.

A file is written under another name, one for each writer, synced and renamed, and its folder synced: after a kill, or a
power cut, at any moment there is the file as it was or as it was to be. What is read is a regular file of a limited
size (a device never ends, a pipe may never begin), and JSON of a limited depth, whose numbers every library can hold.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

import yaml

from flc.errors import UserError, check_text

#: Bytes: of options, configs, plans and notes; of lists of clips or prompts, one a line.
SMALL, LIST = 64_000_000, 256_000_000
#: Levels of lists and mappings in each other: real files have fewer than ten.
DEPTH = 50
#: Values in one file of options, repeated ones counted each time.
NODES = 100_000


def sync(path: Path) -> None:
    """A file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


@contextmanager
def whole(path: Path, under: str = "") -> Iterator[Path]:
    """A path beside `path` to write a file at, which takes the place of `path` when the block ends without an error.
    `under` stands for its name, where one longer than `path`'s own would not do."""
    remove_left(path.parent, under or path.name)
    temporary = path.with_name(f".new-{secrets.token_hex(TOKEN)}-{under or path.name}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if not lock(descriptor):
            os.close(descriptor)
            descriptor = -1  # Windows renames no open file
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)
    sync(path.parent)


TOKEN = 4
"""Bytes that tell writers of one file apart."""


def lock(descriptor: int) -> bool:
    """Whether this process has the open file alone, until it closes it or ends; not where there are no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; another's, or a file system without locks
        return False
    return True


def remove_left(folder: Path, name: str) -> None:
    """What writers of this file left that were killed: nobody has it locked."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    for left in folder.glob(f".new-{'?' * 2 * TOKEN}-{escape(name)}"):
        with suppress(OSError):
            descriptor = os.open(left, flags)
            try:
                if lock(descriptor):
                    left.unlink()
            finally:
                os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, limit: int = SMALL) -> str:
    """A file's text, without the mark that editors of Windows put before it. `OSError` as `read_bytes`;
    `UnicodeDecodeError` unless it is UTF-8."""
    return read_bytes(path, limit).decode("utf-8-sig")


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """`OSError` unless this is a regular file of at most `limit` bytes."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a NUL", str(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 1e6:g} MB", str(path))
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        check_pointer(path)
        value = parse_json(read_text(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another path, or mend this one") from error
    except UserError:
        raise
    except ValueError as error:  # not JSON, or not text at all
        why = "it is empty" if not path.stat().st_size else str(error)
        raise UserError(f"{path} cannot be read as JSON ({why}): mend it there") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object but a {type(value).__name__}: it must begin with {{")
    return value


POINTER = b"version https://git-lfs"


def check_pointer(path: Path) -> None:
    """`UserError` for what stands for a large file in a repository that was cloned without Git LFS."""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(len(POINTER))
        if start == POINTER:
            raise UserError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` where it is from")


def parse_json(text: str, number: Callable[[str], int] | None = None) -> Any:
    """`ValueError` unless this is JSON of at most `DEPTH` levels, its whole numbers of 64 bits, or what `number` makes
    of them."""
    try:
        value = json.loads(text, parse_int=number or whole_number)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    if depth_of(value) > DEPTH:
        raise ValueError(f"it is nested more than {DEPTH} deep")
    return value


def depth_of(value: Any) -> int:
    """How many lists and mappings are in each other."""
    depth, level = 0, [value]
    while level := [outer for outer in level if isinstance(outer, dict | list)]:
        depth += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def parse_yaml(text: str) -> Any:
    """Plain values: as `parse_json` has them, of names that are text, and of `NODES` at the most where one repeats
    another. `ValueError`, or a `YAMLError`, otherwise."""
    check_nodes(text)
    try:
        value = yaml.safe_load(text)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        # what PyYAML raises beside ValueError at a value that is not of its tag: `!!bool maybe`
        raise ValueError(f"a value is not of its kind ({error!r})") from error
    check_plain(value)
    return value


def check_nodes(text: str) -> None:
    """`ValueError` for what would keep PyYAML for ever: values in values, and ones that repeat others, which repeat
    others."""
    known: dict[str, tuple[int, int]] = {}  # of a value by its anchor: how many there are in it, and how deep
    above: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # of each that is begun, its anchor and so far the same
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            above.append((event.anchor, 1, 1))
            size = depth = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size, depth = above.pop()
            known |= {anchor: (size, depth)} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size, depth = 1, 0
            known |= {event.anchor: (1, 0)} if event.anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, *_ in above):
                raise ValueError(f"*{event.anchor} is in itself")
            size, depth = known.get(event.anchor or "", (0, 0))
        else:
            continue
        anchor, so_far, deepest = above.pop()
        above.append((anchor, so_far + size, max(deepest, depth + 1)))
        if len(above) - 1 + depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        if so_far + size > NODES:
            raise ValueError(f"it has more than {NODES} values")


def check_plain(value: Any) -> None:
    """`ValueError` for what is no text, number, list or mapping by name; text that is none; what no library counts."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{name!r:.40} is no name of an option")
            check_plain(name)
            check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            check_plain(inner)
    elif isinstance(value, str):
        check_text(value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number in it is beyond 64 bits")
    elif value is not None and not isinstance(value, int | float):
        raise ValueError(f"a {type(value).__name__} in it, which is no text, number, list or mapping")


def whole_number(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits:.20}{'...' * (len(digits) > 20)} is beyond 64 bits")
    return int(digits)
