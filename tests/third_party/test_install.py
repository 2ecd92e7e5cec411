"""A third party's package, installed as its users would, works without a change to flc."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_plugin"

#: The shortest run in which every stage does something: the embedded model, a few clips, a few iterations.
TINY = ("prepare.clips=32", "recover.iterations=2", "distill.iterations=3", "evaluate.clips=8", "evaluate.reference=16",
        "evaluate.teacher_steps=3", "distiller.fake_warmup=0")  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment that sees this one's packages (torch is not installed twice), with the
    example installed into it. `site.addsitedir` also follows this one's .pth files, as of an editable flc."""
    place = tmp_path_factory.mktemp("third-party")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    interpreter = place / "venv" / "bin" / "python"
    [site] = (place / "venv").glob("lib/python*/site-packages")
    (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    shutil.copytree(EXAMPLE, place / "source", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    command = [interpreter, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
               "--disable-pip-version-check", str(place / "source")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site / "flc_edges" / "__init__.py").exists(), "installed here, not into the parent"
    shutil.rmtree(place / "source")  # nothing of it may be needed any more
    return interpreter


def flc(python: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FLC_", "PYTHONPATH"))} | {"OMP_NUM_THREADS": "1"}
    command = [python, "-m", "flc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, cwd=place, env=env)


@pytest.mark.slow
def test_its_algorithms_are_listed_with_their_distribution(python, tmp_path):
    ran = flc(python, tmp_path, "plugins", "--json")
    assert ran.returncode == 0, ran.stderr
    listed = json.loads(ran.stdout)
    assert listed["broken"] == []
    own = {(a["kind"], a["name"]) for a in listed["algorithms"] if a["distribution"] == "flc-edges"}
    assert own == {("pruner", "edges"), ("teacher", "halfway")}
    text = flc(python, tmp_path, "plugins").stdout
    assert text.count("[flc-edges 0.1.0]") == 2
    assert "edges" not in flc(Path(sys.executable), tmp_path, "plugins").stdout, "seen only where it is installed"


@pytest.mark.slow
def test_its_options_are_shown_with_their_sources(python, tmp_path):
    ran = flc(python, tmp_path, "show", "halfway")
    assert ran.returncode == 0, ran.stderr
    assert "share: float = 0.5 (>= 0, <= 1)" in ran.stdout and "Source: ours." in ran.stdout


@pytest.mark.slow
def test_it_keeps_the_contract_that_flc_tests_for_every_plugin(python):
    contract = Path(__file__).parents[1] / "contract"
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-k", "edges or halfway", str(contract)]
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}  # such as more processes
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=contract.parents[1], env=env)
    assert ran.returncode == 0, ran.stdout
    assert int(re.findall(r"(\d+) passed", ran.stdout)[0]) >= 15, "both algorithms were in the registry"


@pytest.mark.slow
def test_it_compresses_a_model(python, tmp_path):
    sets = [part for setting in TINY for part in ("--set", setting)]
    out = tmp_path / "out"
    ran = flc(python, tmp_path, "compress", "--pruner", "edges", "--teacher", "halfway", "--set", "teacher.share=0.25",
              "--keep", "0.5", "--out", str(out), *sets)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for noise in ("Loading", "Writing", "There are modules", "Warning", "WARNING", "deprecated"):
        assert noise not in ran.stdout + ran.stderr, "the libraries underneath are silent: flc.models.quiet"
    plan = json.loads((out / "score" / "plan.json").read_text())
    depth, kept = len(plan["weights"]["blocks"]), plan["kept"]["blocks"]
    gone = [i for i in range(depth) if i not in kept]
    assert plan["pruner"] == "edges" and len(kept) == depth // 2
    assert gone == list(range(gone[0], gone[-1] + 1)) and 0 in kept and depth - 1 in kept, "one gap, in the middle"
    assert json.loads((out / "distill" / "student.json").read_text())["teacher"] == "halfway"
    config = json.loads((out / "pipeline" / "transformer" / "config.json").read_text())
    assert config["num_layers"] == len(kept)
    lock = (out / "recipe.lock.yaml").read_text()
    assert "name: halfway" in lock and "share: 0.25" in lock and "scale: 3.5" in lock
    assert (out / "report.html").exists() and json.loads((out / "metrics.json").read_text())["rows"]
