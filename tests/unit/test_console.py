"""How far long work is: a bar on a terminal, lines in a file."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from flc.run import console
from flc.run.console import Console

NOTE = "student 0.4321 fake 0.1234 and more that has no room in so narrow a terminal, whatever it says"


@pytest.fixture
def clock(monkeypatch):
    """Seconds, set by hand."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("title", ["recover", "distill (DistributionMatching)"])
def test_a_bar_shows_count_time_passed_and_time_left_whole(capsys, monkeypatch, width, title):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    with Console().bar(title, 4000) as bar:
        for step in range(1, 1235):
            bar.at(step, NOTE)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).strip().splitlines()[-1]
    assert re.match(rf"{re.escape(title)} \S+ 1234/4000 0:00:\d\d 0:\d\d:\d\d student 0.4321", last), last
    assert len(last) <= width and (NOTE in last) == (width == 200)


def test_a_file_gets_a_line_every_half_minute_with_what_a_bar_shows(capsys, clock):
    with Console().bar("recover", 100) as bar:
        for step in range(1, 11):
            clock.seconds += 7
            bar.at(step, f"student {step}")
        said = capsys.readouterr().err
    lines = said.splitlines()
    assert re.fullmatch(r"recover: 5 of 100, student 5, 7 s/iteration, 0:11:05 left, \d+\.\d\d GB at most", lines[0])
    assert lines[1].startswith("recover: 10 of 100, student 10, 7 s/iteration, 0:10:30 left, ") and len(lines) == 2
    assert capsys.readouterr().err == "recover: 10 of 100 in 0:01:10\n", "and one when it is done"


def test_iterations_of_an_earlier_sitting_took_no_time_of_this_one(capsys, clock):
    with Console().bar("recover", 100) as bar:
        for step in range(81, 84):
            clock.seconds += 10
            bar.at(step)
    assert capsys.readouterr().err.startswith("recover: 83 of 100, 10 s/iteration, 0:02:50 left, ")


def test_work_of_no_lasting_interest_ends_without_a_line_and_other_ranks_say_nothing(capsys, clock):
    for quiet, passing in ((False, True), (True, False)):
        with Console(quiet).bar("decode clips", 3, passing) as bar:
            bar.advance()
    assert capsys.readouterr().err == ""
