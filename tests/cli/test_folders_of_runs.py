"""Folders of other runs, or of none: one line on stderr that names it, exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from flc.errors import UserError
from flc.recipe import lock_text, resolve
from flc.run.compress import completed

pytestmark = pytest.mark.usefixtures("place")


def test_out_in_use(refused, unloaded, place):
    (place / "run").mkdir()
    (place / "run" / "notes.txt").write_text("mine")
    line = refused("compress", "--out", "run")
    assert "--out run is not empty" in line and "--resume" in line
    assert "--out run is not empty" in refused("score", "--out", "run")


@pytest.mark.parametrize("command", ["compress", "score", "prune", "report"])
def test_nothing_to_resume(refused, unloaded, command):
    assert "--out rum does not exist" in refused(command, "--out", "rum", "--resume")


def made(place: Path, **values: object) -> Path:
    """A run's folder as far as the checks of a later command look: its lock file and finished stages."""
    run = place / "run"
    for stage in ("data", "score", "prune", "recover", "distill"):
        (run / stage).mkdir(parents=True)
        (run / stage / "done.json").write_text('{"fingerprint": {}}')
    (run / "recipe.lock.yaml").write_text(lock_text(completed(resolve({"preset": "quick", **values}, {}, {}))))
    (run / "pipeline").mkdir()
    (run / "metrics.json").write_text("{}")
    return run


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        ("report", ["--seed", "77"], "run/data was made with another seed"),
        ("export", ["--set", "pruner.samples=3"], "run/score was made with another pruner"),
        ("evaluate", ["--set", "recover.iterations=7"], "run/recover was made with another recover"),
        ("distill", ["--set", "recovery.alpha=0.5"], "run/recover was made with another recovery"),
        ("evaluate", ["--negative-prompt", "blurry"], "run/score was made with another negative_prompt"),
        ("distill", ["--dtype", "bfloat16"], "run/score was made with another dtype"),
        ("export", ["--set", "distill.iterations=2"], "run/distill was made with another distill"),
    ],
)
def test_a_later_stage_does_not_change_what_earlier_ones_were_made_with(refused, place, command, flags, says):
    made(place, seed=5)
    line = refused(command, "--out", "run", *flags)
    assert says in line and "give another --out" in line


def test_a_run_has_one_engine(refused, place):
    made(place, engine="deepspeed")
    assert "run/recover was made with another engine" in refused("distill", "--out", "run", "--engine", "plain")


def test_resuming_with_other_options_says_what_is_made_again(place, flc, monkeypatch):
    made(place, seed=5)
    monkeypatch.setattr("flc.run.compress.begin", lambda job, resume: (_ for _ in ()).throw(UserError("stopped here")))
    code, _, err = flc("compress", "--resume", "--out", "run", "--set", "distill.iterations=7")
    assert code == 2 and "stopped here" in err
    said = " ".join(err.split())
    assert "run/distill was made with another distill" in said and "run/recover was" not in said
    _, _, err = flc("compress", "--resume", "--out", "run")
    assert "was made with" not in err


def test_a_folder_that_holds_no_run_is_not_resumed(refused, unloaded, place):
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").write_bytes(b"")
    line = refused("compress", "--resume", "--out", "photos")
    assert "photos has no recipe.lock.yaml" in line and "mend its name" in line


@pytest.mark.parametrize("metrics", ["{}", '{"rows": [{"title": "student"}], "metrics": [], "prompts": []}'])
def test_a_report_of_measurements_that_were_edited(refused, place, metrics):
    run = made(place)
    (run / "pipeline" / "flc.json").write_text('{"steps": 4}')
    (run / "pipeline" / "model_index.json").write_text("{}")
    (run / "metrics.json").write_text(metrics)
    line = refused("report", "--out", "run")
    assert "run/metrics.json or run/pipeline/flc.json is not as" in line and "run them again" in line
