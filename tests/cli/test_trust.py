"""Recipes from strangers: none says what is run, and none keeps flc reading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from flc.evaluate.vbench import python_of
from flc.recipe import EvaluateStage, lock_text, read_yaml, resolve
from flc.registry import registry

pytestmark = pytest.mark.usefixtures("place")


def program(place: Path) -> Path:
    """One that tells that it was run."""
    path = place / "python"
    path.write_text(f"#!/bin/sh\ntouch {place / 'marker'}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("command", [["compress"], ["score"], ["evaluate", "--pipeline", "tiny-wan"]], ids=str)
def test_a_program_in_a_recipe_is_refused_and_not_run(refused, unloaded, place, command):
    text = f"evaluate: {{suite: vbench, vbench_data: VBench, vbench_python: {program(place)}}}\n"
    (place / "recipe.yaml").write_text(text)
    line = refused(*command, "--out", "run", "--recipe", "recipe.yaml")
    assert line.startswith(
        "recipe.yaml: evaluate.vbench_python names a program to run, which is taken from the command"
    )
    assert "give --set evaluate.vbench_python=... if you trust it" in line
    assert not (place / "marker").exists()


def test_a_program_in_the_lock_file_of_a_folder_from_a_stranger_is_refused(refused, unloaded, place):
    (place / "run").mkdir()
    values = resolve({}, {}, {}).model_dump(mode="json")
    values["evaluate"] |= {"suite": "vbench", "vbench_python": str(program(place))}
    (place / "run" / "recipe.lock.yaml").write_text(yaml.safe_dump(values))
    assert "names a program to run" in refused("score", "--out", "run", "--resume")
    assert "names a program to run" in refused("compress", "--out", "run", "--resume")


def test_a_program_of_the_command_line_is_taken_and_its_lock_file_says_that_it_leaves_it_out(place):
    recipe = resolve({}, {}, {"evaluate": {"vbench_python": "env/bin/python"}})
    assert recipe.evaluate.vbench_python == "env/bin/python"
    (place / "recipe.lock.yaml").write_text(text := lock_text(recipe))
    assert "# What evaluate.vbench_python named is not written down: --set says it again." in text
    assert resolve(read_yaml(place / "recipe.lock.yaml"), {}, {}).evaluate.vbench_python is None


def test_the_users_own_environment_may_name_it(monkeypatch):
    assert python_of(EvaluateStage()) is None
    monkeypatch.setenv("FLC_VBENCH_PYTHON", "mine")
    assert python_of(EvaluateStage()) == Path("mine")
    assert python_of(EvaluateStage(vbench_python="said")) == Path("said")


@pytest.mark.parametrize("text", ["pruner: {samples: 32}", "pruner: {name: elbo, samples: 32}"])
def test_an_algorithms_option_that_names_a_program_is_held_to_the_same(refused, unloaded, place, monkeypatch, text):
    (place / "recipe.yaml").write_text(text)
    marked = registry().load("pruner", "elbo").Options.model_fields["samples"].json_schema_extra
    monkeypatch.setitem(marked, "program", True)
    line = refused("compress", "--out", "run", "--recipe", "recipe.yaml")
    assert "recipe.yaml: pruner.samples names a program to run" in line


ODD = {
    "a number of 5,000 digits": f"seed: {'9' * 5000}",
    "a number of 5,000 hexadecimal digits": f"seed: 0x{'f' * 5000}",
    "a number beyond 64 bits": f"evaluate: {{clips: {2**63}}}",
    "a number in base 60": f"seed: 1{':59' * 3000}",
    "lists in lists": "seed: " + "[" * 5000,
    "mappings in mappings": "pruner: " + "{a: " * 5000,
    "a nest by indentation": "\n".join(" " * depth + "a:" for depth in range(400)),
    "a value that repeats itself": "pruner: &a [*a]",
    "a deep chain of values that repeat others": "a0: &a0 [x]\n" + "".join(
        f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(100)),
    "a thousand million laughs": "a: &a [x,x,x]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    "a date that is none": "seed: 2026-13-45",
    "a truth value that is none": "offload: !!bool maybe",
    "a number that is none": "seed: !!int ''",
    "a time that is none": "seed: !!timestamp x",
    "a name that is no text": "1: 2",
    "a name that is none": "~: 2",
    "a nul in a name": 'model: "a\\0b"',
    "half of a surrogate pair": 'negative_prompt: "\\ud800"',
    "code": "seed: !!python/object/apply:os.system ['touch marker']",
    "two documents": "seed: 1\n---\nseed: 2",
    "a binary that is none": "negative_prompt: !!binary '==='",
    "a long name": f"{'x' * 100_000}: 1",
    "a long value": f"steps: {'x' * 100_000}",
    "infinite": "keep: .inf",
    "no number": "keep: .nan",
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_an_odd_recipe_is_one_short_line(refused, unloaded, place, case):
    (place / "recipe.yaml").write_text(ODD[case])
    line = refused("compress", "--out", "run", "--recipe", "recipe.yaml")
    assert len(line) < 800, "one line, which a terminal can show"


# -- what is no file ------------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def large(path: Path) -> None:
    """Sparse, of 10 GB."""
    with open(path, "wb") as file:
        file.truncate(10**10)


KINDS = {pipe: "it is no regular file", zeros: "it is no regular file", folder: "", large: "it is larger than"}


@pytest.fixture(params=KINDS, ids=lambda f: f.__name__)
def odd(request):
    """`odd(path)`: makes something else of a file there; what the message must say."""

    def make(path: Path) -> str:
        request.param(path)
        return KINDS[request.param]

    return make


def test_a_recipe_that_is_no_file(flc, unloaded, place, odd):
    said = odd(place / "recipe.yaml")
    code, _, err = flc("compress", "--out", "run", "--recipe", "recipe.yaml")
    assert code == 2 and len(err.splitlines()) == 1 and "--recipe recipe.yaml cannot be read" in err and said in err


def test_a_manifest_that_is_no_file(flc, unloaded, place, odd):
    said = odd(place / "prompts.jsonl")
    code, _, err = flc("evaluate", "--out", "run", "--pipeline", "tiny-wan", "--manifest", "prompts.jsonl")
    assert code == 2 and len(err.splitlines()) == 1 and "prompts.jsonl cannot be read" in err and said in err


def test_a_list_of_clips_that_is_no_file(flc, unloaded, place, odd):
    (place / "clips").mkdir()
    said = odd(place / "clips" / "captions.jsonl")
    code, _, err = flc("compress", "--out", "run", "--data", "clips")
    assert code == 2 and len(err.splitlines()) == 1 and "captions.jsonl cannot be read" in err and said in err


def test_a_plan_that_is_no_file(flc, place, odd):
    said = odd(place / "plan.json")
    code, _, err = flc("prune", "--out", "run", "--plan", "plan.json")
    assert code == 2 and len(err.splitlines()) == 1 and "plan.json" in err and said in err


def test_an_image_that_is_no_file(flc, unloaded, place, odd):
    odd(place / "first.png")
    code, _, err = flc("generate", "tiny-wan", "--prompt", "a cat", "--image", "first.png")
    assert code == 2 and len(err.splitlines()) == 1
    assert "--image first.png is no file" in err or "--image first.png cannot be read as an image" in err


@pytest.mark.parametrize("command", ["compress", "score", "recover", "evaluate", "report"])
def test_no_command_follows_a_link_in_its_out(refused, unloaded, place, command):
    (place / "run").mkdir()
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "done.json").write_text("precious")
    (place / "run" / "recipe.lock.yaml").write_text(lock_text(resolve({}, {}, {})))
    for name in ("prepare", "score", "prune", "recover", "distill", "evaluate", "pipeline"):
        (place / "run" / name).symlink_to(place / "elsewhere")
    line = refused(command, "--out", "run", *(["--resume"] if command in ("compress", "score") else []))
    assert "is a link, which no run makes or follows" in line
