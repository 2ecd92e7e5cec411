"""Which clips a user gives with `--data`, and their captions: a list, or videos with texts beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flc import files
from flc.errors import UserError, check_text

USUAL = "captions.jsonl"
#: What columns of a list are called, the first one that is there.
PATHS, CAPTIONS = ("file", "path", "file_name", "video"), ("caption", "text", "prompt")
#: Of files that are taken for videos where no list names them.
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
Row = tuple[str, Mapping[str, Any]]
"""Where in a list it stands, and its values by column."""


@dataclass(frozen=True)
class Listing:
    rows: list[tuple[Path, str]]
    """Videos and their captions, in the order in which they are taken."""
    said: str
    """What was taken, for people."""


def read_listing(data: Path) -> Listing:
    """Of a list (JSON lines, CSV or Parquet, with paths relative to it), or of a folder that has one, by the name
    captions.jsonl if it has several; else of a folder of videos, each with a text of its name beside it."""
    if data.is_file():
        return of_list(data)
    if not data.is_dir():
        raise UserError(f"--data {data} {'is no folder or file' if data.exists() else 'does not exist'}")
    if (data / USUAL).exists():
        return of_list(data / USUAL)
    lists = sorted(path for path in data.iterdir() if path.suffix in READERS and not path.name.startswith("."))
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        raise UserError(f"--data {data} has several lists ({names}): give one, as --data {lists[0]}")
    return of_list(lists[0]) if lists else beside(data)


def beside(folder: Path) -> Listing:
    """Videos with a text of their name beside them, in the folder and below it."""
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and not p.name.startswith("."))
    pairs = [(path, path.with_suffix(".txt")) for path in videos]
    rows = [(path, caption_of(text)) for path, text in pairs if text.is_file()]
    if not rows:
        found = f"{len(videos)} videos and no text (NAME.txt) beside one" if videos else "no videos"
        raise UserError(
            f"--data {folder} has {found}, and no list: {USUAL}, CSV or Parquet with the columns file and caption"
        )
    alone = [path for path, text in pairs if not text.is_file()]
    left = f"; {len(alone)} without a text are left out, such as {alone[0]}" if alone else ""
    return Listing(rows, f"{len(rows)} videos of {folder} with the text beside each{left}")


def caption_of(path: Path) -> str:
    text = " ".join(read_text(path, files.SMALL).split())
    return checked_caption(text, str(path))


def of_list(path: Path) -> Listing:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"--data {path} is no list: give .jsonl, .csv or .parquet, or a folder of videos")
    rows, columns = [], ("", "")
    for where, values in reader(path):
        columns = column(values, PATHS, where), column(values, CAPTIONS, where)
        name, caption = (values[one] for one in columns)
        if not isinstance(name, str):
            raise UserError(f"{where}: {columns[0]} {name!r:.60} is no path: write it in quotes")
        video = path.parent / name
        caption = checked_caption(caption, where)
        if not video.is_file():
            raise UserError(f"{where}: {video} {'is no file' if video.exists() else 'does not exist'}")
        rows.append((video, caption))
    if not rows:
        raise UserError(f"{path} is empty")
    return Listing(rows, f"{len(rows)} clips of {path} ({columns[0]}, {columns[1]})")


def column(values: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if name in values:
            return name
    raise UserError(f"{where} has none of {', '.join(names)}: it needs a file and a caption, as file and caption")


def checked_caption(caption: Any, where: str) -> str:
    if not isinstance(caption, str):
        raise UserError(f"{where}: caption {caption!r:.60} is no text: write it in quotes")
    try:
        check_text(caption)
    except ValueError as error:
        raise UserError(f"{where}: caption {error}: write it anew") from error
    return caption


# -- lists ---------------------------------------------------------------------------------------------------------


def read_text(path: Path, limit: int) -> str:
    try:
        return files.read_text(path, limit)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}): save it as UTF-8") from error


def json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path, files.LIST).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = files.parse_json(line)
        except ValueError as error:
            raise UserError(f"{where} is no JSON: {{'file': ..., 'caption': ...}} is wanted") from error
        if not isinstance(values, dict):
            raise UserError(f"{where} is not {{'file': ..., 'caption': ...}}")
        yield where, values


def comma_separated(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path, files.LIST), newline=""))
    try:
        for values in reader:
            yield f"{path} line {reader.line_num}", {k: v for k, v in values.items() if k is not None}
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is no CSV: {error}") from error


def parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"{path}: Parquet is read by pyarrow: pip install pyarrow, or give CSV") from error
    try:
        with ParquetFile(path) as file:
            there = [name for name in (*PATHS, *CAPTIONS) if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(columns=there):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", values
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".parquet": parquet,
}
