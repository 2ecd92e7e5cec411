"""Of several ranks with the same mistake one says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.usefixtures("place")

WRONG = ("compress", "--keep", "5")
SAID = "flc: error: recipe.keep='5': Input should be less than or equal to 1\n"


@pytest.fixture
def rank(monkeypatch):
    """`rank(number)`: this process is that one of two."""

    def be(number: int) -> None:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("flc.cli.ranks.PATIENCE", 0.01)

    before = signal.getsignal(signal.SIGTERM)
    yield be
    signal.signal(signal.SIGTERM, before)


def test_the_leader_says_its_line_and_leaves_it_for_the_launchers_summary(flc, place, rank, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(place / "error.json"))
    rank(0)
    assert flc(*WRONG) == (2, "", SAID)
    assert json.loads((place / "error.json").read_text())["message"] == SAID.strip()


def test_a_rank_that_fails_alone_says_so_with_its_number(flc, rank):
    rank(1)
    assert flc(*WRONG) == (2, "", SAID.replace("error: ", "error: rank 1: "))


def test_a_rank_that_the_launcher_ends_is_silent_and_has_the_same_exit_code(place):
    env = os.environ | {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_ERROR_FILE": str(place / "error.json")}
    program = "import flc.cli.ranks as r, flc.cli; r.threading.Event.wait = lambda e, t, w=r.threading.Event.wait: "
    program += "(print('waits', flush=True), w(e, 60))[1]; flc.cli.main()"
    with subprocess.Popen([sys.executable, "-c", program, *WRONG], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", "") and process.returncode == 2
    assert not (place / "error.json").exists()


def test_ctrl_c_comes_to_all_ranks_and_the_leader_says_so(flc, rank, monkeypatch):
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flc.run.generate.adapter_for", cut)
    monkeypatch.setattr("flc.cli.ranks.PATIENCE", 60)
    for number, said in ((0, "flc: error: interrupted\n"), (1, "")):
        rank(number)
        began = time.monotonic()
        assert flc("generate", "tiny-wan", "--prompt", "a cat") == (130, "", said)
        assert time.monotonic() - began < 30, "without waiting"
