"""The main claim's runs: a seed's rows are kept, and run again only for another recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import quality

METRICS = [{"name": "caption_accuracy", "in_average": True}, {"name": "diversity", "in_average": False}]


def row(name: str, average: float, seconds: float) -> dict:
    scores = {"caption_accuracy": average, "first_frame_fidelity": None}
    return {"name": name, "title": name, "steps": 4, "guidance": 1.0, "parameters": 7, "average": average,
            "seconds": seconds, "scores": scores, "per_clip": {"caption_accuracy": [average - 0.1, average + 0.1]},
            "text_only": {"sharpness": average / 2}, "first_frame": {}}  # fmt: skip


def test_a_seed_is_run_once_and_again_only_for_another_recipe(tmp_path, monkeypatch):
    ran: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        ran.append(arguments)
        out = Path(arguments[arguments.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(
            json.dumps({"clips": 8, "metrics": METRICS, "rows": [row("student", 0.5 + len(ran), 1.0)]})
        )

    monkeypatch.setattr(quality, "run", run)
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    first = quality.rows_of("quick", 3, 8, tmp_path / "run")
    assert quality.rows_of("quick", 3, 8, tmp_path / "run") == first, "kept"
    assert first["averaged"] == ["caption_accuracy"] and "per_clip" not in first["rows"][0]
    assert first["rows"][0]["clip_averages"] == pytest.approx([1.4, 1.6]), "what intervals are made of"
    assert len(ran) == 1 and "--resume" not in ran[0]
    assert quality.rows_of("quick", 3, 16, tmp_path / "run")["rows"] != first["rows"], "of other clips"
    assert quality.rows_of("full", 3, 8, tmp_path / "other")["rows"] != first["rows"]
    assert len(ran) == 3 and "--resume" in ran[1], "an earlier run's folder is gone on with, or refused by flc"


def test_the_students_lead_is_taken_within_each_run_and_the_speed_up_within_each_round():
    runs = [[row("teacher-many", t, 8.0), row("student", s, 1.0)] for t, s in ((0.9, 0.95), (0.5, 0.57))]
    taken = [[8.0, 4.0], [1.0, 0.5 / 1.5]]
    teacher, student = quality.aggregate([{"rows": rows} for rows in runs], taken)
    assert abs(teacher["student_ahead"]["mean"] - 0.06) < 1e-9 and abs(teacher["average"]["mean"] - 0.7) < 1e-9
    assert abs(student["speed_up"]["mean"] - 10.0) < 1e-9 and student["student_ahead"]["mean"] == 0.0
    assert "first_frame_fidelity" not in student["scores"], "no score, no mean"
    assert student["sharpness_by_seed"][1] == {"text_only": 0.57 / 2, "first_frame": None}


def test_the_lead_has_the_interval_of_its_pairs_of_clips_over_seeds():
    clips = [0.1, 0.2, 0.3, 0.4]
    rows = [row("teacher", 0.25, 1.0) | {"clip_averages": clips} for _ in range(3)]
    gains = (0.05, 0.06, 0.07)
    students = [row("student", 0.0, 1.0) | {"clip_averages": [c + gain for c in clips]} for gain in gains]
    ahead = quality.student_ahead(students, rows)
    # Student's t of 2 degrees, 4.303, times the standard error of the three gains, .01 / sqrt(3)
    assert ahead["mean"] == pytest.approx(0.06) and ahead["half"] == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert ahead["ranked"] and (ahead["seeds"], ahead["clips"]) == (3, 12)
    assert not quality.student_ahead([students[0], rows[0], rows[0]], rows)["ranked"]


def test_a_row_is_timed_with_the_blocks_its_parameters_say(monkeypatch):
    seen = []

    def seconds(adapter, net, scheduler, steps, guidance, size, clips):
        seen.append((len(net.default.kept["blocks"]), steps, guidance, size, clips))
        return float(len(seen))

    monkeypatch.setattr(quality, "seconds", seconds)
    rows = [{"title": "teacher", "parameters": 2490048, "steps": 50, "guidance": 2.0},
            {"title": "student", "parameters": 1792704, "steps": 4, "guidance": 1.0}]  # fmt: skip
    assert quality.times(rows, rounds=2, clips=3) == [[1.0, 3.0], [2.0, 4.0]]
    assert seen[:2] == [(10, 50, 2.0, (17, 48, 48), 3), (7, 4, 1.0, (17, 48, 48), 3)]
    with pytest.raises(AssertionError, match="not whole blocks"):
        quality.times([rows[0] | {"parameters": 2490047}], rounds=1)
