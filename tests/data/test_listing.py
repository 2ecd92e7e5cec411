"""Which clips `--data` names: lists of several kinds, or videos with texts beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from flc.data.listing import read_listing
from flc.errors import UserError

PAIRS = [("a.mp4", "a cat, asleep"), ("below/b.mov", 'a sign: "open"\nat night')]


@pytest.fixture
def clips(tmp_path) -> Path:
    for name, _ in PAIRS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(path: Path, columns: tuple[str, str], pairs: list = PAIRS) -> Path:
    rows = [dict(zip(columns, pair, strict=True)) for pair in pairs]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif path.suffix == ".csv":
        quoted = [",".join(f'"{value.replace(chr(34), 2 * chr(34))}"' for value in pair) for pair in pairs]
        path.write_text("\r\n".join([",".join(columns), *quoted]), newline="")
    else:
        parquet.write_table(pyarrow.Table.from_pylist([row | {"width": 480} for row in rows]), path)
    return path


@pytest.mark.parametrize("columns", [("file", "caption"), ("path", "text"), ("video", "prompt")], ids=str)
@pytest.mark.parametrize("name", ["captions.jsonl", "list.jsonl", "list.csv", "list.parquet"])
def test_a_list_is_read_by_its_folder_and_by_its_name_whatever_its_columns_are_called(clips, name, columns):
    path = write(clips / name, columns)
    for data in (clips, path):
        found = read_listing(data)
        assert found.rows == [(clips / file, caption) for file, caption in PAIRS]
        assert found.said == f"2 clips of {path} ({columns[0]}, {columns[1]})"


def test_videos_with_texts_beside_them_are_taken_in_their_order_and_others_counted(clips):
    (clips / "a.txt").write_text("a cat,\nasleep\n", encoding="utf-8-sig")
    (clips / "below" / "b.txt").write_text("a sign")
    (clips / "c.mp4").touch()
    (clips / "notes.txt").write_text("of mine")
    found = read_listing(clips)
    assert found.rows == [(clips / "a.mp4", "a cat, asleep"), (clips / "below" / "b.mov", "a sign")]
    assert "2 videos of" in found.said and f"1 without a text are left out, such as {clips / 'c.mp4'}" in found.said


def test_one_of_several_lists_must_be_named_but_the_usual_one_needs_not(clips):
    write(clips / "old.csv", ("file", "caption"), PAIRS[:1])
    write(clips / "new.jsonl", ("file", "caption"))
    with pytest.raises(UserError, match=r"has several lists \(new.jsonl, old.csv\): give one, as --data .*new.jsonl"):
        read_listing(clips)
    write(clips / "captions.jsonl", ("file", "caption"), PAIRS[:1])
    assert len(read_listing(clips).rows) == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "film,caption\na.mp4,a cat\n", "list.csv line 2 has none of file, path, file_name, video"),
        ("list.csv", "file,caption\na.mp4\n", "list.csv line 2: caption None is no text"),
        ("list.csv", "file,caption\n", "list.csv is empty"),
        ("list.csv", "file,caption\na.mp4,\0\n", "list.csv line 2: caption"),
        ("list.jsonl", "[1]", "line 1 is not {'file'"),
        ("list.jsonl", '{"file": 3, "caption": "a"}', "line 1: file 3 is no path"),
        ("list.parquet", "PAR1", "list.parquet cannot be read as Parquet"),
        ("list.jsonl", '{"file": "below", "caption": "a"}', "below is no file"),
        ("list.txt", "a cat", "has 2 videos and no text"),
    ],
)
def test_a_list_that_is_none_is_one_line_that_says_where(clips, name, text, says):
    (clips / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_listing(clips)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_videos_says_what_it_wants(tmp_path):
    with pytest.raises(UserError, match=r"has no videos, and no list: captions.jsonl, CSV or Parquet with the columns"):
        read_listing(tmp_path)
    (tmp_path / "list.xlsx").touch()
    with pytest.raises(UserError, match=r"is no list: give .jsonl, .csv or .parquet, or a folder of videos"):
        read_listing(tmp_path / "list.xlsx")
