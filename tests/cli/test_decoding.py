"""A user's clips are decoded once before a run, and not where they are encoded already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flc.data.latents import PART, parts_of
from flc.data.source import write_video
from flc.data.video import check_video
from flc.recipe import resolve
from flc.run import clips
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.stages import prepare
from tests.cli.small import SMALL

SETS = [part for key, value in (SMALL | {"prepare.clips": 3}).items() for part in ("--set", f"{key}={value}")]
DATA = ("--data", "clips", *SETS)


@pytest.fixture
def decoded(place, monkeypatch):
    """Names of the clips that are decoded before the stages, as they are. There are three, of eight frames a second."""
    (place / "clips").mkdir()
    for name in "abc":
        write_video(place / "clips" / f"{name}.mp4", np.full((17, 48, 48, 3), ord(name) % 7 / 7, np.float32))
    lines = (json.dumps({"file": f"{name}.mp4", "caption": "a red square moving left"}) for name in "abc")
    (place / "clips" / "captions.jsonl").write_text("\n".join(lines))
    names: list[str] = []

    def check(path: Path, *more: Any) -> int:
        names.append(path.stem)
        return check_video(path, *more)

    monkeypatch.setattr(clips, "check_video", check)
    return names


def run(flc: Any, decoded: list[str], *arguments: object) -> str:
    decoded.clear()
    code, _, err = flc(*arguments)
    assert code == 0, err
    return "".join(sorted(decoded))


def test_clips_that_are_encoded_are_not_decoded_before_a_command(flc, decoded, place, monkeypatch):
    first = ("compress", "--until", "score", *DATA)
    assert run(flc, decoded, *first, "--out", "run", "--store", "store") == "abc"
    assert run(flc, decoded, *first, "--out", "run", "--resume") == ""
    assert run(flc, decoded, *first, "--out", "other", "--store", "store") == "", "the store has them"
    assert run(flc, decoded, *first, "--out", "another") == "abc", "no store was given"
    assert run(flc, decoded, "score", "--resume", *DATA, "--out", "run") == ""
    monkeypatch.setattr("flc.run.stages.prepare.encode_parts", lambda *_: pytest.fail("clips were encoded again"))
    assert run(flc, decoded, "compress", "--dry-run", *DATA, "--out", "run") == ""


def test_clips_of_another_run_are_decoded(flc, decoded, place):
    command = ("compress", "--until", "score", *DATA)
    assert run(flc, decoded, *command, "--out", "run") == "abc"
    assert run(flc, decoded, *command, "--out", "run", "--resume", "--frames", "13") == "abc"
    write_video(place / "clips" / "b.mp4", np.ones((17, 48, 48, 3)))
    assert run(flc, decoded, *command, "--out", "run", "--resume", "--frames", "13") == "abc"


def job_of(place: Path, count: int) -> Job:
    recipe = completed(resolve({"data": "clips", "prepare": {"clips": count}}, {}, {}))
    return Job(recipe, place / "run", Console(quiet=True))


def test_of_an_encoding_that_was_stopped_the_rest_is_decoded(decoded, place):
    names = [f"{number}.mp4" for number in range(PART + 2)]
    for name in names:
        (place / "clips" / name).hardlink_to(place / "clips" / "a.mp4")
    text = "\n".join(json.dumps({"file": name, "caption": "a cat"}) for name in names)
    (place / "clips" / "captions.jsonl").write_text(text)
    job, partial = job_of(place, len(names)), place / "run" / ".partial-prepare"
    partial.mkdir(parents=True)
    (partial / "fingerprint.json").write_text(json.dumps(prepare.places(job)[1]))
    parts_of(partial, len(names))[0][0].write_bytes(b"")
    clips.check_videos(job, ["recover"])
    assert sorted(decoded) == ["16", "17"]


def test_the_leader_decodes_for_all_ranks_and_with_a_bar(decoded, place, monkeypatch):
    bars, bar = [], Console.bar
    monkeypatch.setattr(Console, "bar", lambda *a, **more: bars.append((a[1:], more)) or bar(*a, **more))
    job = job_of(place, 3)
    job.ranks = type("Other", (), {"agreed": lambda self, look: (3, []), "device": lambda self, name: name})()
    clips.check_videos(job, ["distill"])
    assert not decoded and not bars, "another rank waits for what the leader finds"
    clips.check_videos(job_of(place, 3), ["distill"])
    assert sorted(decoded) == ["a", "b", "c"] and bars == [(("decode clips", 3), {"passing": True})]


def test_slow_clips_are_said_once_with_the_slowest(decoded, place, monkeypatch):
    """Of a model of eight frames a second, to which b shows four and c six."""
    said: list[str] = []
    monkeypatch.setattr(Console, "warn", lambda self, text: said.append(text))
    clips.check_videos(job_of(place, 3), ["recover"])
    assert not said
    for name, fps in (("b", 4), ("c", 6)):
        write_video(place / "clips" / f"{name}.mp4", np.zeros((17, 48, 48, 3)), fps)
    clips.check_videos(job_of(place, 3), ["recover"])
    [text] = said
    assert "2 of 3 clips show fewer than the model's 8 pictures a second" in text
    assert "clips/b.mp4 shows 4.24." in text, "nine pictures in seventeen frames"
