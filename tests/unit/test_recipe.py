"""defaults < preset < recipe.yaml < flags < --set, and a lock file that names every value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flc.errors import UserError
from flc.models.folder import EMBEDDED, by_name
from flc.recipe import ALGORITHMS, Recipe, lock_text, resolve
from flc.registry import registry
from flc.run.compress import begun, completed, make_job, recipe_from
from flc.run.console import Console
from flc.run.job import Job
from flc.run.stages.export import public
from flc.train.launch import Ranks


def test_each_source_overrides_the_ones_before_it():
    default = Recipe().prepare.clips
    preset = resolve({}, {}, {}).prepare.clips
    full = resolve({}, {"preset": "full"}, {}).prepare.clips
    assert len({default, preset, full, 100, 200}) == 5, "numbers that tell the sources apart"
    file = {"preset": "full", "prepare": {"clips": 100}, "steps": 5, "seed": 7}
    assert resolve(file, {}, {}).prepare.clips == 100
    over = resolve(file, {"steps": 6}, {"prepare": {"clips": "200"}})
    assert (over.prepare.clips, over.steps, over.seed) == (200, 6, 7)
    assert over.recover.iterations == resolve({}, {"preset": "full"}, {}).recover.iterations, "the rest is the preset's"


def test_deepspeed_takes_no_rate_of_muon_from_a_preset():
    plain, sharded = (completed(resolve({}, {"engine": engine}, {})) for engine in ("plain", "deepspeed"))
    for kind, names in (("recovery", ["matrices"]), ("distiller", ["matrices", "fake_matrices"])):
        ours, theirs = (getattr(recipe, kind).options for recipe in (plain, sharded))
        assert all(ours[name] > 0 and theirs[name] == 0 for name in names)
        assert ours["lr"] == theirs["lr"]
    asked = resolve({}, {"engine": "deepspeed"}, {"recovery": {"matrices": "0.5"}})
    assert completed(asked).recovery.options["matrices"] == 0.5, "who asks for it is told that it cannot be"


def test_choosing_another_algorithm_drops_the_first_ones_options():
    file = {"pruner": {"name": "elbo", "samples": 16}}
    assert resolve(file, {}, {}).pruner.options["samples"] == 16
    assert resolve(file, {"pruner": "uniform"}, {}).pruner.options == {}
    assert resolve(file, {"pruner": "elbo"}, {}).pruner.options["samples"] == 16
    assert resolve(file, {}, {"pruner": {"samples": "24"}}).pruner.options["samples"] == "24"


def values(**flags: object) -> dict[str, object]:
    return {"out": Path("nowhere"), "recipe": None, "set_": [], **flags}


def test_a_recipe_may_name_the_embedded_model_and_leave_the_preset_to_the_flag(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("model: tiny-wan\nrecover: {iterations: 5}\ndistill: {iterations: 6}\n")
    recipe = recipe_from(values(recipe=path, preset="full"))
    assert recipe.model is None and (recipe.recover.iterations, recipe.distill.iterations) == (5, 6)
    assert recipe.recover.batch == 24, "of the preset full"
    path.write_text(path.read_text() + "preset: quick\n")
    with pytest.raises(UserError, match="says quick, and holds the stages' lengths"):
        recipe_from(values(recipe=path, preset="full"))


def test_a_lock_file_repeats_the_recipe_and_names_every_option(tmp_path):
    recipe = completed(recipe_from(values(set_=["pruner.samples=16", "distiller.betas=[0.1,0.9]", "recover.batch=3"])))
    lock = tmp_path / "recipe.lock.yaml"
    lock.write_text(lock_text(recipe))
    assert completed(recipe_from(values(recipe=lock))) == recipe
    held = yaml.safe_load(lock.read_text())
    for kind in ALGORITHMS:
        cls = registry().load(kind, held[kind]["name"])
        assert set(held[kind]) == {"name", *cls.Options.model_fields}
    assert held["pruner"]["samples"] == 16 and held["distiller"]["betas"] == [0.1, 0.9]
    assert {"flc", "torch", "diffusers", "python"} <= set(held["versions"])


def test_a_string_from_a_flag_and_a_number_from_a_file_are_the_same_recipe():
    """Otherwise a stage would be done again because of how its option was written."""
    written = completed(resolve({"pruner": {"name": "elbo", "samples": 16}}, {}, {}))
    flagged = completed(resolve({}, {}, {"pruner": {"samples": "16"}}))
    assert written == flagged


def test_names_with_commas_between_are_the_list_of_them():
    text, listed = (
        resolve({}, {}, {"evaluate": {"rows": r}}) for r in ("teacher-many, student", ["teacher-many", "student"])
    )
    assert text == listed and text.evaluate.rows == ("teacher-many", "student")


def test_places_are_absolute_in_the_lock_file_and_names_in_the_model_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = ["evaluate.manifest=m.jsonl", "evaluate.lpips=random"]
    recipe = recipe_from(values(model=Path("models/big"), data=Path("clips"), set_=sets))
    with begun(Job(recipe, tmp_path / "out", Console(quiet=True), Ranks()), resume=False):
        pass
    held = yaml.safe_load((tmp_path / "out" / "recipe.lock.yaml").read_text())
    assert (held["model"], held["data"]) == (str(tmp_path / "models/big"), str(tmp_path / "clips"))
    assert held["evaluate"]["manifest"] == str(tmp_path / "m.jsonl")
    assert held["evaluate"]["lpips"] == "random", "not a place"
    assert (public(recipe).model, public(recipe).data) == ("big", "clips")
    assert public(recipe_from(values())).model is None, "the embedded model is not a place"


@pytest.mark.parametrize(
    ("device", "dtype", "gpu", "expected"),
    [
        ("auto", "auto", True, ("cuda", "bfloat16")),
        ("auto", "auto", False, ("cpu", "float32")),
        ("cpu", "auto", True, ("cpu", "float32")),
        ("cuda:1", "auto", True, ("cuda:1", "bfloat16")),
        ("mps", "auto", False, ("mps", "float32")),
        ("auto", "float32", True, ("cuda", "float32")),
        ("auto", "bfloat16", False, ("cpu", "bfloat16")),
    ],
)
def test_auto_is_the_gpu_that_is_there_in_bfloat16_else_the_cpu_in_float32(monkeypatch, device, dtype, gpu, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    recipe = completed(resolve({}, {"device": device, "dtype": dtype}, {}))
    assert (recipe.device, recipe.dtype) == expected
    assert yaml.safe_load(lock_text(recipe))["device"] == expected[0]


def test_a_machine_is_looked_at_once_and_the_lock_file_says_what_was_found(tmp_path, monkeypatch):
    """Otherwise a run that goes on elsewhere would train in another precision."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (recipe_from(values()).device, recipe_from(values()).dtype) == ("auto", "auto"), "the default"
    (tmp_path / "lock.yaml").write_text(lock_text(completed(recipe_from(values()))))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    again = completed(recipe_from(values(recipe=tmp_path / "lock.yaml")))
    assert (again.device, again.dtype) == ("cpu", "float32")


def test_a_count_for_gpus_elsewhere_looks_for_none_here(tmp_path, monkeypatch):
    def look() -> bool:
        raise AssertionError("it looked")

    monkeypatch.setattr("torch.cuda.is_available", look)
    counted = make_job({"out": tmp_path / "out", "dry_run": True, "ranks": 1})
    assert counted.recipe.dtype == "bfloat16", "as it is on a GPU"
    assert make_job({"out": tmp_path, "dry_run": True, "ranks": 1, "device": "cpu"}).recipe.dtype == "float32"


def test_what_auto_stands_for_is_said_once_by_the_leader(tmp_path, capsys):
    with begun(make_job({"out": tmp_path / "out"}), resume=False):
        pass
    assert capsys.readouterr().err == "device cpu, dtype float32\n"
    for more in ({"out": tmp_path / "out"}, {"out": tmp_path / "new", "device": "cpu", "dtype": "fp32"}):
        with begun(make_job(more), resume=True):
            pass
        assert capsys.readouterr().err == "", "the lock file, or who asks for it, says so"


@pytest.mark.parametrize(
    ("short", "long"), [("bf16", "bfloat16"), ("fp16", "float16"), ("half", "float16"), ("fp32", "float32")]
)
def test_short_names_of_dtypes_are_the_long_ones_in_the_lock_file(tmp_path, short, long):
    (tmp_path / "recipe.yaml").write_text(f"dtype: {short}\n")
    for recipe in (recipe_from(values(dtype=short)), recipe_from(values(recipe=tmp_path / "recipe.yaml"))):
        assert yaml.safe_load(lock_text(recipe))["dtype"] == long


def test_a_share_may_be_given_in_percent_wherever_options_come_from(tmp_path):
    (tmp_path / "recipe.yaml").write_text("keep: 33.3%\nteacher: {name: well-guided, beta1: 250%}\n")
    recipe = completed(recipe_from(values(recipe=tmp_path / "recipe.yaml", set_=["evaluate.given_share=25%"])))
    assert (recipe.keep, recipe.teacher.options["beta1"], recipe.evaluate.given_share) == (0.333, 2.5, 0.25)
    assert recipe_from(values(keep="70%")) == recipe_from(values(keep="0.7"))
    with pytest.raises(UserError, match=r"recover.iterations='5%': .* integer"):
        recipe_from(values(set_=["recover.iterations=5%"]))


RECIPES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_of_the_examples_are_ones(path):
    recipe = recipe_from({"out": Path("out"), "recipe": path, "model": Path("model"), "data": Path("clips")})
    assert completed(recipe).engine == "deepspeed" and recipe.zero == 3 and recipe.offload
    assert recipe.evaluate.suite == "shapes", "VBench's prompts are asked for before anything else, by their place"
    assert (recipe.recover.iterations, recipe.distill.iterations) == (4000, 5000), "the large model's preset, full"


def test_there_are_recipes_among_the_examples():
    assert RECIPES


def test_a_runs_folder_stands_for_its_student(tmp_path):
    """Wherever a model is asked for; not where it is a pipeline itself."""
    run, student = tmp_path / "run", tmp_path / "run" / "pipeline"
    student.mkdir(parents=True)
    assert by_name(run) == run, "there is none yet"
    (student / "model_index.json").write_text("{}")
    assert by_name(run) == student and by_name(Path("tiny-wan")) == EMBEDDED
    assert recipe_from({"out": tmp_path / "out", "model": run}).model == str(student)
    (run / "model_index.json").write_text("{}")
    assert by_name(run) == run
