"""A whole `flc compress` in miniature: its outputs, interruption at any moment, resume, repetition from the lock."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import yaml

from flc.data.source import drawn_clips, write_video
from tests.cli.small import ENVIRONMENT, command

pytestmark = pytest.mark.slow


def run(*arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def inside(flc):
    """`run` in this process: a process of its own takes longer to import what it needs than to do what these ask."""

    def inside(*arguments: str) -> subprocess.CompletedProcess:
        assert arguments[1:3] == ("-m", "flc")
        code, out, err = flc(*arguments[3:])
        assert code == 0, err[-3000:]
        return subprocess.CompletedProcess(arguments, code, out, err)

    return inside


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.safetensors"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run(*command(out))
    return out, done


def test_outputs(whole):
    out, done = whole
    names = {"prepare", "score", "prune", "recover", "distill", "pipeline", "evaluate"}
    assert {p.name for p in out.iterdir()} == names | {"recipe.lock.yaml", "metrics.json", "report.html"}
    metrics = json.loads((out / "metrics.json").read_text())
    rows = [row["name"] for row in metrics["rows"]]
    assert rows == ["teacher-many", "teacher-few-guided", "teacher-few", "pruned", "recovered", "student"]
    assert metrics["rows"][-1]["parameters"] < 0.75 * metrics["rows"][0]["parameters"]
    assert len(list((out / "evaluate" / "videos" / "student").glob("*.mp4"))) == 2
    card = (out / "pipeline" / "README.md").read_text()
    for text in ("num_inference_steps=4", "guidance_scale=1.0", "base_model:", "license:", "pruner `elbo`", "sde"):
        assert text in card
    assert "student, 4 steps" in card
    for title in ("encode clips", "score blocks", "recover", "distill", "evaluate"):
        assert title in done.stderr, "every long step shows a bar"
    assert "student" in done.stdout, "the table is printed"


def test_a_dry_run_plans_estimates_and_writes_nothing(inside, tmp_path):
    """Its plan is that of the model as it is: no iteration of stage II comes before it."""
    done = inside(*command(tmp_path / "dry", "--dry-run"))
    assert list(tmp_path.iterdir()) == []
    inside(*command(tmp_path / "out", "--set", "pruner.after=0", stage="score"))
    kept = json.loads((tmp_path / "out" / "score" / "plan.json").read_text())["kept"]["blocks"]
    assert f"keep {kept}" in done.stdout and "recover" in done.stdout and "distill" in done.stdout


def test_a_dry_run_loads_the_model_once_and_writes_no_weights(flc, tmp_path, monkeypatch):
    """Twice would be too much of a large one; checkpoints of its trials would be hundreds of gigabytes."""
    from flc.models.wan import WanAdapter

    loaded, load = [], WanAdapter.load
    monkeypatch.setattr(WanAdapter, "load", lambda self, *given: loaded.append(given) or load(self, *given))
    monkeypatch.setattr("flc.train.loop.save_checkpoint", lambda *_: pytest.fail("a checkpoint of a trial"))
    monkeypatch.setattr("diffusers.WanTransformer3DModel.save_pretrained", lambda *_, **__: pytest.fail("weights"))
    _, _, _, *arguments = command(tmp_path / "out", "--dry-run")
    code, out, err = flc(*arguments)
    assert code == 0 and len(loaded) == 1, err
    assert "nothing was written" in " ".join(out.split())


def test_a_rows_network_is_gone_before_the_next_ones_is_loaded(whole, tmp_path, flc, monkeypatch):
    """Those of full size do not fit side by side."""
    from flc.run.rows import Entry

    out, alive, refs, row = tmp_path / "out", [], [], Entry.row
    shutil.copytree(whole[0], out)
    shutil.rmtree(out / "evaluate")

    def watched(self: Entry) -> object:
        gc.collect()
        alive.append(sum(ref() is not None for ref in refs))
        made = row(self)
        if self.own:
            refs.append(weakref.ref(made.net.module))
        return made

    monkeypatch.setattr(Entry, "row", watched)
    assert flc("evaluate", "--out", out)[0] == 0
    assert alive == [0] * 6 and len(refs) == 3, "pruned, recovered and student"


def test_a_users_clips_are_trained_on_and_others_of_them_asked_for(inside, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    pairs = list(drawn_clips(40, 17, 48, 48, seed=5))
    with open(folder / "captions.jsonl", "w") as captions:
        for index, (video, caption) in enumerate(pairs):
            write_video(folder / f"{index}.mp4", video)
            captions.write(json.dumps({"file": f"{index}.mp4", "caption": caption}) + "\n")
    done = inside(*command(tmp_path / "out", "--data", str(folder)))
    trained = json.loads((tmp_path / "out" / "prepare" / "captions.json").read_text())
    assert trained == [caption for _, caption in pairs[:32]]
    asked = [p["caption"] for p in json.loads((tmp_path / "out" / "metrics.json").read_text())["prompts"]]
    assert asked == [caption for _, caption in pairs[32:36] for _ in range(2)], "two seeds of each"
    assert "--data has 40 clips, 32 are trained on and the table asks for 20 more" in done.stderr
    assert "caption accuracy will be n/a" not in done.stderr


def test_stock_diffusers_loads_the_student(whole):
    from diffusers import WanTransformer3DModel

    model, info = WanTransformer3DModel.from_pretrained(whole[0] / "pipeline" / "transformer", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_layers == 7


def test_a_pipeline_is_evaluated_alone_as_it_was_in_its_run(whole, inside, tmp_path):
    out, _ = whole
    arguments = command(tmp_path / "alone", "--pipeline", str(out / "pipeline"), stage="evaluate")
    inside(*arguments)
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())["rows"]
    before = json.loads((out / "metrics.json").read_text())["rows"][-1]
    assert len(alone) == 1 and alone[0]["steps"] == 4 and alone[0]["guidance"] == 1.0
    for name, score in before["scores"].items():
        # batches of another size: float32 sums in another order
        assert alone[0]["scores"][name] == (score if score is None else pytest.approx(score, abs=1e-3)), name


def test_running_again_skips_what_is_done(whole, inside):
    out, _ = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    inside(*command(out, "--resume"))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


def test_resume_alone_goes_on_with_the_locked_recipe(whole, inside):
    out, _ = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    inside(sys.executable, "-m", "flc", "compress", "--out", str(out), "--resume")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


def killed_at(out: Path, moment: str) -> str:
    """Start or go on until `moment` is there under `out`, then `kill -9`; what the run had said."""
    process = start(command(out, *(["--resume"] if out.exists() else [])))
    deadline = time.time() + 180
    while not list(out.glob(moment)):
        assert process.poll() is None, f"it ended before {moment}: {process.communicate()[1][-2000:]}"
        assert time.time() < deadline, f"{moment} never came"
        time.sleep(0.01)
    process.kill()
    return process.communicate()[1]


def test_kill_at_any_moment_and_resume_ends_in_the_same_weights(whole, tmp_path):
    """While clips are encoded, just after the first checkpoint of each trained stage (so that the next start must go
    on from it), while a checkpoint is written, and while the table is made."""
    expected, out = digest(whole[0]), tmp_path / "out"
    killed_at(out, ".partial-prepare")
    killed_at(out, ".partial-recover/checkpoints/latest")
    assert "recover: resuming from step-" in killed_at(out, ".partial-distill/checkpoints/.step-*")
    killed_at(out, ".partial-distill/checkpoints/latest")
    assert "distill: resuming from step-" in killed_at(out, ".partial-evaluate")
    run(*command(out, "--resume"))
    assert digest(out) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_training_saves_and_exits(tmp_path, number, code):
    out = tmp_path / "out"
    process = start(command(out, "--set", "recover.iterations=100000", "--set", "recover.save_every=100000"))
    log = out / ".partial-recover" / "checkpoints" / "log.jsonl"
    deadline = time.time() + 120
    while not log.exists() and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.strip().splitlines()[-1].startswith("flc: error: stopped by signal")
    saved = log.parent / (log.parent / "latest").read_text() / "state.json"
    assert json.loads(saved.read_text())["step"] >= 10, "the log's first line is that of iteration 10"


def test_the_lock_file_repeats_the_run(whole, inside, tmp_path):
    lock = whole[0] / "recipe.lock.yaml"
    assert yaml.safe_load(lock.read_text())["versions"]["torch"]
    inside(sys.executable, "-m", "flc", "compress", "--recipe", str(lock), "--out", str(tmp_path / "again"))
    assert digest(tmp_path / "again") == digest(whole[0])


def test_a_run_until_a_stage_goes_on_to_the_same_student(whole, inside, tmp_path):
    out = tmp_path / "out"
    done = inside(*command(out, "--until", "recover"))
    assert {p.name for p in out.iterdir()} == {"recipe.lock.yaml", "prepare", "score", "prune", "recover"}
    assert f"recover is done in {out}; --resume without --until goes on" in " ".join(done.stderr.split())
    inside(sys.executable, "-m", "flc", "compress", "--out", str(out), "--resume")
    assert digest(out) == digest(whole[0])


def test_a_run_until_a_stage_says_nothing_of_those_after_it(whole, tmp_path, flc):
    out = shutil.copytree(whole[0], tmp_path / "out")
    before = digest(out)
    code, _, err = flc("compress", "--out", out, "--resume", "--until", "recover", "--set", "distill.batch=8")
    assert code == 0 and "made with another" not in err and digest(out) == before, err
    code, _, err = flc("compress", "--out", out, "--resume", "--until", "prune", "--keep", 0.5)
    assert code == 0 and "score was made with another keep: it is made again" in " ".join(err.split()), err


def test_stages_one_by_one_give_the_same_student(whole, tmp_path):
    out = tmp_path / "out"
    for number, stage in enumerate(("score", "prune", "recover", "distill", "export")):
        run(*command(out, *(["--resume"] if number else []), stage=stage))
    assert digest(out / "pipeline") == digest(whole[0] / "pipeline")
