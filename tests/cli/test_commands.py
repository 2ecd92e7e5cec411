"""What the program says about itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from flc.api import Algorithm
from flc.cli.show import READ
from flc.errors import UserError
from flc.models.folder import EMBEDDED, by_name
from flc.options import describe
from flc.recipe import ALGORITHMS, STAGE_OPTIONS
from flc.registry import HOOKS, registry
from flc.run.compress import make_job, recipe_from
from flc.run.console import Console

EVERY = [(p.kind, p.algorithm.name) for p in registry().provided]

#: The product's flags of `flc compress`.
FLAGS = [
    "--model", "--data", "--pruner", "--recovery", "--distiller", "--teacher", "--steps", "--keep", "--recipe", "--set",
    "--seed", "--out", "--resume", "--until", "--dry-run", "--ranks", "--height", "--width", "--frames", "--guidance",
    "--negative-prompt", "--device", "--dtype", "--preset", "--engine", "--zero", "--offload",
]  # fmt: skip

COMMANDS = [
    "compress", "score", "prune", "recover", "distill", "export", "evaluate", "report", "generate", "plugins", "show",
]  # fmt: skip


def test_plugins_json_lists_every_algorithm(flc):
    code, out, err = flc("plugins", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert listed["broken"] == []
    assert {(a["kind"], a["name"]) for a in listed["algorithms"]} == set(EVERY)
    # No quantizer is registered yet; every other kind must have at least one algorithm.
    assert {a["kind"] for a in listed["algorithms"]} >= set(HOOKS) - {"quantizer"}
    for a in listed["algorithms"]:
        assert a["summary"] and a["distribution"] and a["version"] and a["entry_point"] and a["api"] == 1
    elbo = next(a for a in listed["algorithms"] if a["name"] == "elbo")
    assert elbo["distribution"] == "flc" and elbo["version"] == version("flc") and "2603.01685" in elbo["paper"]


def test_plugins_as_text_lists_every_algorithm_under_its_kind(flc):
    code, out, _ = flc("plugins")
    assert code == 0 and "broken" not in out.splitlines()
    listed, kind = set(), ""
    for line in out.splitlines():
        if line.startswith(" "):
            listed.add((kind, line.split()[0]))
        else:
            kind = line
    assert listed == set(EVERY)


def test_show_prints_options_sources_and_the_citation(flc):
    code, out, err = flc("show", "elbo")
    assert (code, err) == (0, "")
    assert "pruner elbo:" in out and "flc_plugins.fastlightgen.elbo:ElboPruner" in out
    assert "cite FastLightGen, arXiv:2603.01685, Eq 4" in out
    assert "|| x_t - t v^{skip-i}(x_t, t) - x_0 ||^2" in out, "the module's docstring with the equation"
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("samples: int"))
    assert "= 256 clips (>= 2, <= 1000000)" in lines[at] and "Source: ours." in lines[at + 1]
    assert "--set pruner.OPTION=VALUE" in out


@pytest.mark.parametrize("name", STAGE_OPTIONS)
def test_show_prints_a_stages_options_with_sources_and_presets(flc, name):
    code, out, err = flc("show", name)
    assert code == 0 and err == "" and out.startswith(f"stage {name}: ") and f"--set {name}.OPTION=VALUE" in out
    for option in STAGE_OPTIONS[name].model_fields:
        assert f"\n  {option}: " in out
    assert "not stated" not in out and out.count("Source: ") == len(STAGE_OPTIONS[name].model_fields)
    assert "(embedded model, quick)" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_show_prints_a_commands_options_and_the_sections_that_it_reads(flc, name):
    code, out, err = flc("show", name)
    assert (code, err) == (0, "") and f"command flc {name}: " in out
    flags = set(re.findall(r"--[a-z-]+", flc(name, "--help")[1]))
    assert flags <= {line.split()[0] for line in out.splitlines() if line.startswith("  -")}
    sections = {line.split(":")[0].strip() for line in out.splitlines() if ": flc show " in line}
    assert sections == set(READ.get(name, ()))
    if name == "compress":
        assert "\n  distiller: flc show dmd, or of " in out and "\n  distill: flc show distill\n" in out
        assert sections == {*STAGE_OPTIONS, *ALGORITHMS}


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_show_prints_every_algorithm_with_all_its_options(flc, kind, name):
    code, out, err = flc("show", name)
    assert (code, err) == (0, "")
    assert f"{kind} {name}: {registry().find(kind, name).algorithm.summary}" in out
    for option in describe(registry().load(kind, name).Options):
        assert f"  {option.name}: " in out
    assert "not stated" not in out


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_option_says_what_it_is_and_where_its_default_is_from(kind, name):
    for option in describe(registry().load(kind, name).Options):
        assert option.about, f"{name}.{option.name} has no description"
        assert option.source, f"{name}.{option.name} has no source"


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_record_has_a_summary_that_fits_a_line(kind, name):
    record: Algorithm = registry().find(kind, name).algorithm
    assert record.summary and "\n" not in record.summary
    assert len(record.summary) <= 80, "beside the name, in a list"


def test_compress_names_every_flag_of_the_product(flc):
    code, out, err = flc("compress", "--help")
    assert (code, err) == (0, "")
    words = set(out.split())
    assert not [flag for flag in FLAGS if flag not in words]


def test_help_names_every_command(flc):
    code, out, err = flc("--help")
    assert (code, err) == (0, "")
    words = set(out.split())
    assert not [c for c in COMMANDS if c not in words]


def test_without_arguments_it_prints_its_help(flc):
    assert flc() == flc("--help")


def test_version_is_that_of_the_package(flc):
    assert flc("--version") == (0, f"flc {version('flc')}\n", "")


@pytest.mark.parametrize("command", [(), *[(c,) for c in COMMANDS]])
def test_h_is_help_for_every_command(flc, command):
    code, out, err = flc(*command, "-h")
    assert (code, err) == (0, "") and (code, out, err) == flc(*command, "--help")


@pytest.mark.parametrize(("words", "completed"), [("flc com", ["compress"]), ("flc compress --ke", ["--keep"])])
def test_the_shell_completes_commands_and_flags(words, completed):
    asked = {"_FLC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    ran = subprocess.run([sys.executable, "-c", "from flc.cli import main; main()"], env=os.environ | asked,
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, completed, "")


def test_python_m_flc_is_the_same_program(flc):
    ran = subprocess.run([sys.executable, "-m", "flc", "plugins", "--json"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == flc("plugins", "--json")
    ran = subprocess.run([sys.executable, "-m", "flc", "plugin"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == flc("plugin")


@pytest.mark.parametrize(
    "flags, idle",
    [
        ({"distiller": "euler", "teacher": "cfg", "guidance": 1.0},
         ["--teacher has no effect: --distiller euler trains nothing"]),
        ({"distiller": "euler", "guidance": 1.0, "set_": ["distill.batch=4", "evaluate.clips=8"]},
         ["--set distill.batch has no effect: --distiller euler trains nothing"]),
        ({"recovery": "none", "set_": ["recover.iterations=9"]},
         ["--set recover.iterations has no effect: --recovery none trains nothing"]),
        ({"teacher": "cfg", "set_": ["recover.iterations=9", "distill.batch=4"]}, []),
        ({"set_": ["distiller.rank=8"]}, ["--set distiller.rank has no effect beside the other options of distiller"]),
        ({"distiller": "codmd", "set_": ["distiller.relation=0", "distiller.temperature=1"]},
         ["--set distiller.temperature has no effect beside the other options of distiller"]),
        ({"distiller": "dmd2", "set_": ["distiller.gan=0", "distiller.depths=[1]", "distiller.regression_steps=4"]},
         ["--set distiller.depths has no effect beside the other options of distiller",
          "--set distiller.regression_steps has no effect beside the other options of distiller"]),
        ({"distiller": "lcm", "set_": ["distiller.target=stop-gradient", "distiller.target_decay=.5"]},
         ["--set distiller.target_decay has no effect beside the other options of distiller"]),
        ({"recovery": "icmd", "set_": ["recovery.adversarial=0", "recovery.depths=[1]"]},
         ["--set recovery.depths has no effect beside the other options of recovery"]),
        ({"set_": ["distiller.rank=8", "distiller.fake=lora", "distill.check_every=3"]}, []),
    ],
)  # fmt: skip
def test_settings_of_a_stage_that_trains_nothing_are_said_to_have_no_effect(flags, idle, tmp_path, capsys):
    make_job({"out": tmp_path / "out"} | flags)
    assert capsys.readouterr().err == "".join(f"warning: {line}\n" for line in idle)


def test_a_guided_student_of_a_recovery_without_empty_texts_is_warned_of(tmp_path, capsys):
    """The embedded presets drop no text in stage II: their students need no guidance."""
    said = "warning: this student is sampled with guidance, and stage II never trains it without text"
    for flags in ({"distiller": "euler"}, {"distiller": "euler", "recovery": "icmd"}):
        make_job({"out": tmp_path / "out"} | flags)
        assert said in capsys.readouterr().err
    for flags in ({}, {"distiller": "euler", "recovery": "none"}, {"distiller": "euler", "guidance": 1.0},
                  {"distiller": "euler", "set_": ["recover.drop_text=0.1"]}):  # fmt: skip
        make_job({"out": tmp_path / "out"} | flags)
        assert said not in capsys.readouterr().err


def test_depths_that_fall_together_are_refused_before_the_first_stage(tmp_path):
    for flags in ({"distiller": "dmd2", "set_": ["distiller.depths=[0.98,1.0]"]},
                  {"recovery": "icmd", "set_": ["recovery.depths=[0.01,0.02]"]}):  # fmt: skip
        with pytest.raises(UserError, match=r"depths \[.*\] fall together on 10 blocks: give fewer"):
            make_job({"out": tmp_path / "out"} | flags)


def test_names_with_brackets_are_printed_as_they_are(capsys):
    Console().say("student: out[draft]/pipeline")
    Console().warn("out[/x] was made")
    assert capsys.readouterr().err == "student: out[draft]/pipeline\nwarning: out[/x] was made\n"


def test_the_embedded_model_has_a_name():
    assert recipe_from({"out": Path("out"), "model": Path("tiny-wan")}) == recipe_from({"out": Path("out")})
    assert by_name(Path("tiny-wan")) == EMBEDDED and by_name(Path("./mine")) == Path("mine")
