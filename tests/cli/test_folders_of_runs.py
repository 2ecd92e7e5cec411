"""Folders of other runs, or of none: one line on stderr that names it, exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from flc.data.latents import LatentClips
from flc.errors import UserError
from flc.models.folder import EMBEDDED
from flc.models.notes import read_student
from flc.models.stock import DTYPES
from flc.models.wan import WanAdapter
from flc.recipe import lock_text, preset_values, resolve
from flc.run.compress import begun, completed, recipe_from
from flc.run.console import Console
from flc.run.fingerprints import ClipsOf
from flc.run.folders import fingerprint, held
from flc.run.job import Job
from flc.run.provenance import ahead, changed
from flc.run.stages import STAGES, places
from flc.run.stages.export import public
from flc.train.launch import Ranks
from tests.cli.small import SMALL

pytestmark = pytest.mark.usefixtures("place")

SETS = [part for key, value in SMALL.items() if "distill" not in key for part in ("--set", f"{key}={value}")]
#: Blocks are chosen of the model as it is, so that a plan rests on nothing of stage II.
QUICK = {"preset": "quick", "pruner": {"name": "elbo", "after": 0}}


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
    run, recipe = (
        place / "run",
        completed(resolve({**QUICK, **values}, {}, {})),
    )
    job = Job(recipe, run, Console(quiet=True))
    for stage in [stage for stage in STAGES.values() if stage.compared]:
        stage.place(job).mkdir(parents=True)
        read = stage.inputs(job) | (places(job, stage) if stage.name in ("recover", "distill") else {})
        mark = fingerprint(stage.made_with(job), read)
        (stage.place(job) / "done.json").write_text(json.dumps({"fingerprint": mark}))
    (run / "recipe.lock.yaml").write_text(lock_text(recipe))
    (run / "pipeline").mkdir()
    (run / "metrics.json").write_text("{}")
    return run


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        ("report", ["--seed", "77"], "run/prepare was made with another seed"),
        ("export", ["--set", "pruner.samples=3"], "run/score was made with another pruner"),
        ("evaluate", ["--set", "recover.iterations=7"], "run/recover was made with another iterations"),
        ("distill", ["--set", "recovery.alpha=0.5"], "run/recover was made with another recovery"),
        ("evaluate", ["--negative-prompt", "blurry"], "run/score was made with another negative_prompt"),
        ("distill", ["--dtype", "bfloat16"], "run/prepare was made with another dtype"),
        ("export", ["--set", "distill.iterations=2"], "run/distill was made with another iterations"),
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
    monkeypatch.setattr("flc.run.compress.begun", lambda job, resume: (_ for _ in ()).throw(UserError("stopped here")))
    code, _, err = flc("compress", "--resume", "--out", "run", "--set", "distill.iterations=7")
    assert code == 2 and "stopped here" in err
    said = " ".join(err.split())
    assert "run/distill was made with another iterations" in said and "run/recover was" not in said
    _, _, err = flc("compress", "--resume", "--out", "run")
    assert "was made with" not in err


def stop(run: Path, stage: str) -> None:
    """As a finished stage would be, had it been stopped at its first checkpoint."""
    partial = run / f".partial-{stage}"
    (partial / "checkpoints" / "step-0000001").mkdir(parents=True)
    (partial / "checkpoints" / "latest").write_text("step-0000001")
    (partial / "checkpoints" / "step-0000001" / "state.json").write_text("{}")
    mark = json.loads((run / stage / "done.json").read_text())["fingerprint"]
    (partial / "fingerprint.json").write_text(json.dumps(mark))
    shutil.rmtree(run / stage)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("distill.batch=8", "holds a stopped training with another batch: go on with the former"),
        (
            "recover.iterations=4",
            "rests on run/recover, which was made with another iterations and would be made again",
        ),
        ("pruner.samples=3", "rests on run/score, which was made with another pruner and would be made again"),
    ],
)
def test_other_options_that_a_stopped_training_cannot_go_on_with_change_nothing(refused, place, option, says):
    run = made(place)
    stop(run, "distill")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    line = refused("compress", "--out", "run", "--resume", "--set", option)
    assert "run/.partial-distill" in line and says in line
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before, "the lock file, too"


def test_other_clips_are_said(place, flc, monkeypatch):
    """Those that the list names are the clips: other files beside them are none."""
    from flc.run import compress

    (place / "clips").mkdir()
    (place / "clips" / "a.mp4").write_bytes(b"a film")
    (place / "clips" / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "a cat"}')
    run = made(place)
    mark = json.loads((run / "prepare" / "done.json").read_text())
    read = fingerprint({}, {"data": ClipsOf(place / "clips", range(1))})
    mark["fingerprint"]["inputs"]["data"] = read["inputs"]["data"]
    (run / "prepare" / "done.json").write_text(json.dumps(mark))
    recipe = compress.completed(resolve(QUICK | {"data": str(place / "clips")}, {}, {}))
    job = Job(recipe, run, Console(quiet=True))
    assert changed(job) == []
    (place / "clips" / "notes.txt").write_text("of mine")
    assert changed(job) == []
    (place / "clips" / "a.mp4").write_bytes(b"another film")
    assert changed(job) == [("prepare", "--data")]
    monkeypatch.setattr(compress, "begun", lambda job, resume: (_ for _ in ()).throw(UserError("stopped here")))
    _, _, err = flc("compress", "--resume", "--out", "run")
    assert "run/prepare was made with another --data: it is made again" in " ".join(err.split()), "forgotten"


def test_what_is_encoded_of_captions_and_first_frames_is_made_again_in_another_precision(place):
    jobs = [Job(completed(resolve({"dtype": dtype}, {}, {})), place, Console(quiet=True)) for dtype in DTYPES]
    assert len({json.dumps(STAGES["prepare"].made_with(job)) for job in jobs}) == len(jobs) == 3


def test_a_recovery_is_made_again_for_a_student_of_other_steps_which_it_is_told(place):
    jobs = [Job(completed(resolve({"steps": steps}, {}, {})), place / "run", Console(quiet=True)) for steps in (2, 4)]
    few, more = (STAGES["recover"].made_with(job) for job in jobs)
    assert {name for name in few if few[name] != more[name]} == {"steps"}


def test_two_commands_do_not_work_in_one_folder(refused, place):
    run = made(place)
    with held(run):
        assert "another flc works in --out run: wait for it" in refused("compress", "--resume", "--out", "run")
        assert "another flc works in --out run" in refused("report", "--out", "run")
    with held(run):
        pass  # the first one has let go of it


def test_a_folder_that_holds_no_run_is_not_resumed(refused, unloaded, place):
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").write_bytes(b"")
    line = refused("compress", "--resume", "--out", "photos")
    assert "photos has no recipe.lock.yaml" in line and "mend its name" in line


@pytest.mark.parametrize("metrics", ["{}", '{"rows": [{"title": "student"}], "metrics": [], "prompts": []}'])
def test_a_report_of_measurements_that_were_edited(refused, place, metrics):
    run = made(place)
    (run / "pipeline" / "flc.json").write_text('{"steps": 4}')
    (run / "pipeline" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    (run / "pipeline" / "transformer").mkdir()
    shutil.copy(EMBEDDED / "transformer" / "config.json", run / "pipeline" / "transformer")
    (run / "metrics.json").write_text(metrics)
    line = refused("report", "--out", "run")
    assert "run/metrics.json or run/pipeline/flc.json is not as" in line and "run them again" in line


def test_a_stage_command_touches_no_folder_that_holds_no_run(refused, unloaded, place):
    """A project's own prepare/ and pipeline/ are called as ours are."""
    for name in ("prepare", "pipeline"):
        (place / "project" / name).mkdir(parents=True)
        (place / "project" / name / "precious.txt").write_text("mine")
    (place / "plan.json").write_text('{"kept": {"blocks": [0]}}')
    for command in ("prune", "recover"):
        line = refused(command, "--out", "project", "--plan", "plan.json")
        assert "project has no recipe.lock.yaml" in line


@pytest.mark.parametrize("command", ["export", "evaluate", "report"])
def test_stages_made_from_another_plan_than_the_one_that_lies_there(refused, place, command):
    run = made(place)
    again = json.loads((run / "score" / "done.json").read_text()) | {"again": True}  # scored anew since
    (run / "score" / "done.json").write_text(json.dumps(again))
    (run / "score" / "plan.json").write_text('{"kept": {"blocks": [0, 1]}}')
    line = refused(command, "--out", "run")
    assert "was made from another run/score: run `flc " in line and "again" in line


def test_a_student_of_another_recovery_than_the_one_that_lies_there(refused, place):
    run = made(place)
    (run / "recover" / "done.json").write_text((run / "recover" / "done.json").read_text() + " ")
    assert "run/distill was made from another run/recover: run `flc distill` again" in refused("report", "--out", "run")


def test_a_finished_folder_is_not_measured_in_another_run_s(refused, place):
    run = made(place)
    shutil.copytree(EMBEDDED, run / "pipeline", dirs_exist_ok=True)
    line = refused("evaluate", "--pipeline", "run/pipeline", "--out", "run", "--resume")
    assert "--out run holds another run" in line


def test_a_run_may_go_on_elsewhere(place):
    """On another device or number of ranks: a finished training is the same there."""
    run = made(place)
    recipe = completed(resolve(QUICK, {}, {}))

    class Leader(Ranks):
        def shared(self, text: str) -> str:
            return text

    elsewhere = Job(recipe, run, Console(quiet=True), Leader(0, 2, 0))
    assert changed(elsewhere, ahead(STAGES["distill"])) == changed(elsewhere) == []
    saving = completed(resolve({**QUICK, "recover": {"save_every": 7, "log_every": 3}}, {}, {}))
    assert changed(Job(saving, run, Console(quiet=True))) == [], "how it is saved changes nothing of it"


STUDENT = {"steps": 4, "guidance": 1.0, "shift": 3.0, "sampler": "sde", "recovery": "bernoulli", "distiller": "dmd",
           "teacher": "well-guided", "sigmas": [1.0, 0.9, 0.75, 0.5, 0.0]}  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"sigmas": None}, {"steps": "four"}, {"guidance": None}, {"sampler": "euler"}], ids=str
)
def test_what_a_student_says_of_itself_is_read_before_anything_is_written(place, wrong):
    (place / "student.json").write_text(json.dumps(STUDENT))
    assert read_student(place / "student.json") == STUDENT
    (place / "student.json").write_text(json.dumps(STUDENT | wrong))
    with pytest.raises(UserError, match=f"student.json: {next(iter(wrong))} .*: it is written by `flc distill`"):
        read_student(place / "student.json")


def test_damaged_latents_are_one_line(place, adapter):
    (place / "data").mkdir()
    with pytest.raises(UserError, match=r"captions.json is missing or damaged: remove .*data to make it again"):
        LatentClips(place / "data", adapter)
    (place / "data" / "captions.json").write_text(json.dumps(["a cat"]))
    (place / "data" / "000000-000001.safetensors").write_bytes(b"\x10" + bytes(30))
    with pytest.raises(UserError, match=r"01.safetensors is missing or damaged: remove .*data to make it again"):
        LatentClips(place / "data", adapter)


def test_a_dry_run_of_a_run_that_goes_on_plans_that_run(place, refused, monkeypatch, flc):
    made(place, seed=5, steps=7)
    seen = []
    monkeypatch.setattr("flc.run.estimate.dry_run", lambda job, scratch: seen.append(job.recipe.steps))
    assert flc("compress", "--out", "run", "--resume", "--dry-run")[0] == 0 and seen == [7]
    assert "--out rum does not exist" in refused("compress", "--out", "rum", "--resume", "--dry-run")


def test_a_model_card_names_the_folder_it_stands_in(place, monkeypatch):
    (place / "mine").mkdir()
    monkeypatch.chdir(place / "mine")
    assert public(resolve({"model": "."}, {}, {})).model == "mine"


@pytest.mark.parametrize(("base", "preset"), [("flc/tiny-wan", "tiny"), ("Wan2.1-T2V-14B-Diffusers", "large")])
def test_a_student_is_measured_as_its_base_model_is(place, base, preset):
    shutil.copytree(EMBEDDED, place / "student")
    notes = json.loads((EMBEDDED / "flc.json").read_text()) | {"base_model": base}
    (place / "student" / "flc.json").write_text(json.dumps(notes))
    flags = {"pipeline": place / "student", "model": place / "student", "out": place / "alone"}
    expected = preset_values(preset == "tiny", "quick")["evaluate"]
    assert recipe_from(flags).evaluate.model_dump(include=set(expected)) == expected


def test_a_command_loads_of_the_model_what_it_uses(flc, place, monkeypatch):
    code, _, err = flc("compress", "--out", "run", "--recovery", "none", "--distiller", "euler", *SETS)
    assert code == 0, err
    load, asked = WanAdapter.load, []
    monkeypatch.setattr(WanAdapter, "load", lambda *a, **more: asked.append(a[4]) or load(*a, **more))
    shutil.rmtree(place / "run" / "prune")
    shutil.rmtree(student := place / "run" / "pipeline")
    for command in ("prune", "export", "report"):
        code, _, err = flc(command, "--out", "run")
        assert code == 0, err
    assert asked == [{"transformer"}, set(), set()]
    assert {path.name for path in student.iterdir()} >= {"transformer", "vae", "text_encoder", "README.md"}
    part = load(WanAdapter(), EMBEDDED, "cpu", "bfloat16", frozenset({"transformer"}))
    assert part.pipe.text_encoder is None and part.pipe.vae.device.type == "meta" and part.dtype == torch.bfloat16


def test_a_stage_that_a_command_makes_again_with_other_options_is_said(place, flc, monkeypatch):
    made(place)
    monkeypatch.setattr("flc.run.compress.begun", lambda job, resume: (_ for _ in ()).throw(UserError("stopped here")))
    monkeypatch.setattr("flc.run.compress.check_together", lambda *_: None)
    for option, said in (("distill.batch=8", True), ("distill.save_every=7", False)):
        _, _, err = flc("distill", "--out", "run", "--set", option)
        assert ("run/distill was made with another batch: it is made again" in " ".join(err.split())) == said, err


def test_a_command_that_fails_before_it_made_anything_leaves_the_runs_options(place):
    """One that made a stage, or began to train, leaves its own, with which that goes on."""
    run = made(place)
    lock = run / "recipe.lock.yaml"
    former = lock.read_text()
    job = Job(completed(resolve(QUICK | {"distill": {"batch": 8}}, {}, {})), run, Console(quiet=True))

    def work(begin: bool) -> None:
        with begun(job, resume=True):
            assert "batch: 8" in lock.read_text() != former
            if begin:
                (run / ".partial-distill").mkdir()
                (run / ".partial-distill" / "fingerprint.json").write_text('{"options": {}, "inputs": {}}')
            raise OSError("no space left")

    for begin in (False, True):
        with pytest.raises(OSError, match="no space left"):
            work(begin)
        assert (lock.read_text() == former) == (not begin)
