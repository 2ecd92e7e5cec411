"""The table of rows as a terminal shows it."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from flc.run.table import print_table

TITLES = ("teacher, 50 steps, guided", "teacher, 4 steps, guided", "teacher, 4 steps", "pruned only, 50 steps, guided",
          "recovered, 50 steps, guided", "student, 4 steps")  # fmt: skip
SCORES = ("caption_accuracy", "dynamic_degree", "motion_smoothness", "temporal_flicker", "sharpness",
          "subject_consistency", "distribution", "diversity", "first_frame_fidelity")  # fmt: skip
PAIR = {"label": "LPIPS to teacher (lower is closer)", "value": 0.1234, "rows": ["row 0", "row 5"]}


@pytest.fixture
def lines(tmp_path, monkeypatch, capsys):
    """`lines(width)`: what is printed; None is a pipe."""

    def show(width: int | None, parameters: float = 2.49e6, seconds: float = 0.0833, **more: object) -> list[str]:
        rows = [
            {"name": f"row {number}", "title": title, "steps": int(re.search(r"\d+", title)[0]), "guidance": 2.0,
             "parameters": parameters, "seconds": seconds, "average": 0.9612, "scores": dict.fromkeys(SCORES, 0.9876)}
            for number, title in enumerate(TITLES)
        ]  # fmt: skip
        metrics = {"suite": "shapes", "clips": 48, "seed": 0, "rows": rows, "metrics": [{"name": n} for n in SCORES]}
        (tmp_path / "metrics.json").write_text(json.dumps(metrics | more))
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in ({} if width is None else {"FORCE_COLOR": "1", "COLUMNS": str(width)}).items():
            monkeypatch.setenv(name, value)
        print_table(SimpleNamespace(out=tmp_path))
        return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]

    return show


HEAD = ["steps", "size", "time", "average", "caption", "distribution", "diversity"]


def test_in_80_columns_each_row_is_a_line_and_no_word_is_broken(lines):
    shown = lines(80)
    head = next(line for line in shown if "steps" in line)
    assert head.split() == HEAD
    table = shown[shown.index(head) + 2 : -1]
    assert [line.split("  ")[0] for line in table] == [
        "teacher, guided", "teacher, guided", "teacher", "pruned, guided", "recovered, guided", "student",
    ]  # fmt: skip
    assert table[-1].split() == ["student", "4", "2.49", "0.083", "0.961", "0.988", "0.988", "0.988"]
    assert max(map(len, shown[:-1])) <= 80 and "…" not in "".join(shown)
    assert "sharpness" in shown[-1] and "metrics.json" in shown[-1], "what has no room is said to be elsewhere"


def test_in_80_columns_a_full_size_fits_too(lines):
    shown = lines(80, 14.288e9, 123.456)
    assert "size: billions of parameters; time: seconds a clip" in shown
    assert shown[-2].split()[:5] == ["student", "4", "14.3", "123.5", "0.961"] and max(map(len, shown[:-1])) <= 80


@pytest.mark.parametrize("width", [None, 250])
def test_a_pipe_and_a_wide_terminal_have_every_column(lines, width):
    words = " ".join(lines(width, pairs=[PAIR])).split()
    assert {"guidance", "sharpness", "subject", "LPIPS"} <= {*words} and "0.123" in words


def test_a_narrow_terminal_shows_the_columns_that_fit_it(lines):
    shown = lines(40)
    assert max(map(len, shown[2:-1])) <= 40 and "time" in shown[2]
