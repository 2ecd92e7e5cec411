"""VBench's files read, the package run in an environment of its own, and the videos it needs written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flc.api import View
from flc.data.source import read_video
from flc.errors import UserError
from flc.evaluate import vbench
from flc.evaluate.manifest import Asked, shots
from flc.evaluate.sampling import Row
from flc.evaluate.vbench_layout import DIMENSIONS, expected
from flc.train.nets import RoleNet

RECORDED = Path(__file__).parent / "vbench"
I2V = DIMENSIONS["vbench-i2v"]
PROMPTS = ("a red circle moving left", "a blue square moving up")


@pytest.fixture
def python(tmp_path) -> Path:
    """The python of an environment whose packages are the fakes."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={RECORDED / "fake"} exec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def asked(tmp_path) -> list[Asked]:
    Image.fromarray(np.full((48, 48, 3), 60, np.uint8)).save(tmp_path / "first.png")
    return [Asked(p, tmp_path / "first.png") for p in PROMPTS]


@pytest.fixture
def folder(tmp_path, asked) -> Path:
    """A row's folder with ten empty videos."""
    row = tmp_path / "row with a space"
    row.mkdir()
    made = shots(asked, 5, 0)
    vbench.describe_videos(row, asked, made, "vbench-i2v")
    for name in json.loads((row / "seeds.json").read_text()):
        (row / "videos" / name).touch()
    assert not vbench.missing(row, made)
    return row


# -- results ---------------------------------------------------------------------------------------------------


def test_recorded_results_are_read():
    found = vbench.read_results(RECORDED / "written")
    assert list(found) == ["temporal_flickering"] and found["temporal_flickering"].videos == 10
    [path] = (RECORDED / "written").glob("*_eval_results.json")
    mean, videos = json.loads(path.read_text())["temporal_flickering"]
    assert found["temporal_flickering"].value == mean == pytest.approx(np.mean([v["video_results"] for v in videos]))


def test_a_mean_of_no_videos_is_no_value():
    assert "NaN" in (RECORDED / "empty" / "motion_smoothness_eval_results.json").read_text()
    assert vbench.read_results(RECORDED / "empty") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"dynamic_degree": 0.5}', '{"dynamic_degree": ["x", []]}'])
def test_other_files_of_that_name_are_refused(tmp_path, text):
    (tmp_path / "a_eval_results.json").write_text(text)
    with pytest.raises(UserError, match="is not a result of VBench"):
        vbench.read_results(tmp_path)


def test_files_add_up_and_the_newest_of_a_dimension_counts(tmp_path):
    for age, name, values in (
        (20, "b", {"dynamic_degree": 0.2, "i2v_subject": 0.9}),
        (10, "a", {"dynamic_degree": 0.4}),
    ):
        path = tmp_path / f"{name}_eval_results.json"
        path.write_text(json.dumps({d: [v, [{}]] for d, v in values.items()}))
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert {d: m.value for d, m in vbench.read_results(tmp_path).items()} == {"dynamic_degree": 0.4, "i2v_subject": 0.9}


def test_a_row_is_the_plain_mean_and_says_where_videos_are_missing():
    facts = {"name": "student", "title": "s", "steps": 4, "guidance": 1.0, "parameters": 10, "seconds": 0.5, "timed": 3}
    found = {d: vbench.Measured(0.5 + 0.05 * i, 10) for i, d in enumerate(I2V)}
    row = vbench.result_row(facts, found, dict.fromkeys(I2V, 10) | {"dynamic_degree": 15}, {})
    assert row["average"] == pytest.approx(0.65) and list(row["scores"]) == list(I2V)
    assert row["notes"] == {"dynamic_degree": "10 of 15 videos"} and "timed" not in row
    assert not vbench.lacks(row)
    assert row["normalised"]["motion_smoothness"] == pytest.approx((0.6 - 0.706) / (0.9975 - 0.706))


def test_a_row_that_lacks_a_value_has_the_others_no_average_and_the_reason():
    facts = {"name": "student", "title": "s", "steps": 4, "guidance": 1.0, "parameters": 10, "seconds": 0.5, "timed": 3}
    gone = {"motion_smoothness": "no weights", "dynamic_degree": "no memory"}
    found = {d: vbench.Measured(0.5, 10) for d in I2V if d not in gone}
    row = vbench.result_row(facts, found, dict.fromkeys(I2V, 10) | {"i2v_subject": 15}, gone)
    assert row["average"] is None and row["scores"] == dict.fromkeys(I2V, 0.5) | dict.fromkeys(gone)
    assert row["notes"] == {"i2v_subject": "10 of 15 videos"} | gone
    assert vbench.lacks(row) == "no weights" and "dynamic_degree" not in row["normalised"]


# -- the package in its own environment ------------------------------------------------------------------------


def test_the_package_measures_every_dimension_of_a_row(python, folder, asked):
    assert vbench.run(python, "vbench-i2v", folder, "cpu", I2V) == {}
    found = vbench.read_results(folder / "results")
    assert set(found) == set(I2V)
    # five videos of each prompt, of which the fake says 1, .99, ... .96, and that the first three move
    expect = dict.fromkeys(I2V, 0.98) | {"dynamic_degree": 0.6}
    assert {d: m.value for d, m in found.items()} == pytest.approx(expect)
    assert {d: m.videos for d, m in found.items()} == expected(asked, "vbench-i2v")


def test_text_to_video_runs_the_other_class(python, folder):
    info = json.loads((folder / "full_info.json").read_text())
    (folder / "full_info.json").write_text(json.dumps([{k: e[k] for k in ("prompt_en", "dimension")} for e in info]))
    assert vbench.run(python, "vbench", folder, "cpu", DIMENSIONS["vbench"]) == {}
    assert vbench.run(python, "vbench-i2v", folder, "cpu", ["i2v_subject"]) == {"i2v_subject": "KeyError: 'image_name'"}


def test_dimensions_that_fail_leave_the_others_and_each_says_why(python, folder, monkeypatch):
    monkeypatch.setenv("FAKE_VBENCH_FAILS", "dynamic_degree")
    monkeypatch.setenv("FAKE_VBENCH_BREAKS", "motion_smoothness aesthetic_quality")
    said = vbench.run(python, "vbench-i2v", folder, "cpu", I2V)
    broken = "ValueError: shapes differ"
    assert said == {
        "dynamic_degree": "OSError: HTTP Error 403: no weights of dynamic_degree",
        "motion_smoothness": broken,
        "aesthetic_quality": broken,
    }
    assert set(vbench.read_results(folder / "results")) == set(I2V) - set(said)
    assert "no weights" in (folder / "results" / "log.txt").read_text()
    assert "motion_smoothness, aesthetic_quality (ValueError: shapes differ)" in vbench.told(said).split("; ")


def test_an_environment_without_the_package(folder, tmp_path):
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    two = ["dynamic_degree", "imaging_quality"]
    said = vbench.run(python, "vbench", folder, "cpu", two)
    assert said == dict.fromkeys(two, "ModuleNotFoundError: No module named 'torch'")
    python.chmod(0o644)
    said = vbench.run(python, "vbench", folder, "cpu", two)
    assert said == dict.fromkeys(two, f"{python} does not run: Permission denied")


def test_an_environments_python_is_called_by_its_own_name(tmp_path, monkeypatch):
    """Resolved, it would be the interpreter that the environment was made from."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    command = vbench.command(Path("bin/python"), "vbench", Path("row"), "cuda:1", ["dynamic_degree"])
    assert command[0] == str(tmp_path / "bin" / "python")
    assert command[2:] == ["vbench", *(f"{tmp_path}/row/{n}" for n in ("videos", "full_info.json", "results")),
                           "cuda:1", "dynamic_degree"]  # fmt: skip


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "RGB"])
def test_vbench_compares_with_a_manifests_first_frame_as_the_model_saw_it(tmp_path, mode):
    """Its loader takes three channels only and crops nothing; VBench's own images are left as they are."""
    Image.new("RGB", (96, 48), "red").convert(mode).save(tmp_path / "wide.png")
    own = Asked("b", tmp_path / "wide.png", dimensions=("i2v_subject",))
    first, second = vbench.as_seen([Asked("a", tmp_path / "wide.png"), own], tmp_path / "images", (5, 32, 32))
    with Image.open(first.image) as seen:
        assert seen.mode == "RGB" and seen.size == (32, 32)
        if mode != "L":
            assert seen.getpixel((0, 0)) == (255, 0, 0)
    assert second == own and first.prompt == "a"


# -- videos ----------------------------------------------------------------------------------------------------


def test_videos_are_written_once_and_a_cut_off_row_goes_on(adapter, asked, tmp_path):
    """Two prompts of five seeds, one step each, in batches of four: cut off in the second batch, then gone on with."""
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    row = Row("pipeline", "one step", net, adapter.teacher_scheduler(), 1, 1.0, 7)
    made, size, steps = shots(asked, 5, 0), (5, 32, 32), []
    vbench.describe_videos(tmp_path, asked, made, "vbench-i2v")

    def write(on_step) -> None:
        vbench.write_videos(adapter, row, made, tmp_path, size, "", 4, 24, on_step)

    def cut() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(cut)
    videos = tmp_path / "videos"
    assert len(vbench.missing(tmp_path, made)) == 6
    before = {p.name: p.stat().st_mtime_ns for p in videos.iterdir()}
    write(lambda: steps.append(1))
    assert len(steps) == 4, "one, one cut off, then two for the six that were missing"
    assert {p.name: p.stat().st_mtime_ns for p in videos.iterdir() if p.name in before} == before
    assert sorted(p.name for p in videos.iterdir()) == sorted(f"{p}-{i}.mp4" for p in PROMPTS for i in range(5))
    facts = json.loads((tmp_path / "row.json").read_text())
    assert facts["timed"] == 10 and facts["seconds"] > 0 and facts["parameters"] == 7
    first, second = (read_video(videos / f"{PROMPTS[0]}-{i}.mp4", *size) for i in (0, 1))
    assert abs(first[0] - 60 / 255).mean() < 0.15, "the given first frame, through the autoencoder"
    assert (first != second).any(), "another seed"


@pytest.mark.parametrize(
    ("expand", "notes", "rate"),
    [(True, None, 24), (False, None, 16), (True, {"fps": 8}, 8)],
    ids=["TI2V's own", "Wan's own", "the folder's"],
)
def test_videos_have_the_models_frame_rate(tmp_path, adapter, expand, notes, rate):
    import av

    from flc.data.source import write_video

    (tmp_path / "model_index.json").write_text(json.dumps({"expand_timesteps": expand}))
    if notes:
        (tmp_path / "flc.json").write_text(json.dumps(notes))
    write_video(tmp_path / "clip.mp4", np.zeros((5, 32, 32, 3), np.float32), adapter.fps_of(tmp_path))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == rate
