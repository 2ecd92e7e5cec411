"""Whatever is asked, the answer is done or one line that says what is wrong: no library's error, no trace on the disk.

Nothing is trained: what a command would begin is where a case ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flc.cli import main
from flc.models.folder import EMBEDDED
from flc.models.wan import WanAdapter
from tests.fuzz.odd import command_line, recipe, spoil

#: Characters of an error's line: a few long words, each of which is cut.
LONGEST = 1500


class Begun(BaseException):
    """All checks are passed."""


def begin(*_: Any, **__: Any) -> Any:
    raise Begun


@pytest.fixture
def outcome(capsys, tmp_path, monkeypatch):
    """`outcome(arguments)` -> the exit code, 0 where a run would begin."""

    @contextlib.contextmanager
    def begun(*_: Any) -> Iterator[None]:
        raise Begun
        yield

    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "FLC_PLUGINS", "FLC_PLUGINS_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("flc.run.compress.begun", begun)
    for heavy in ("dry_run", "count"):
        monkeypatch.setattr(f"flc.run.estimate.{heavy}", begin)

    def run(arguments: list[str], case: str) -> int:
        there = sorted(os.listdir())
        capsys.readouterr()
        try:
            main(arguments)
        except SystemExit as ended:
            code: Any = ended.code
        except Begun:
            code = 0
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("flc: error: ")]
        assert code in (0, 2), f"{case}: exit code {code}: {said:.2000}"
        assert len(errors) == (code == 2), f"{case}: {said:.2000}"
        for line in errors:
            assert len(line) < LONGEST and line.isprintable(), f"{case}: {line:.3000}"
        clip = [] if code else ["clip.mp4"]
        assert sorted(os.listdir()) in (there, sorted({*there, *clip})), case
        return code

    return run


def share(codes: list[int]) -> float:
    return codes.count(0) / len(codes)


COUNTS = [pytest.param(150, id="150"), pytest.param(1500, id="1500", marks=pytest.mark.slow)]


@pytest.fixture
def loaded(adapter, monkeypatch):
    """The embedded model is there already; another folder is read."""
    load = WanAdapter.load

    def at_hand(self: Any, folder: Path, *others: Any) -> Any:
        return adapter if Path(folder).resolve() == EMBEDDED.resolve() else load(self, folder, *others)

    monkeypatch.setattr(WanAdapter, "load", at_hand)
    monkeypatch.setattr(WanAdapter, "stock_pipeline", begin)


@pytest.mark.parametrize("count", COUNTS)
def test_odd_command_lines_are_done_or_one_line(outcome, loaded, count):
    codes = [
        outcome(line := command_line(random.Random(f"line {n}")), f"line {n}: {line!s:.300}") for n in range(count)
    ]
    assert 0.02 < share(codes) < 0.5, "most are odd, and some are not"


@pytest.mark.parametrize("count", COUNTS)
def test_odd_recipes_are_done_or_one_line(outcome, loaded, count):
    codes = []
    for n in range(count):
        Path("recipe.yaml").write_bytes(recipe(random.Random(f"recipe {n}")))
        said = f"recipe {n}: {Path('recipe.yaml').read_bytes()[:300]!r}"
        codes.append(outcome(["compress", "--recipe", "recipe.yaml", "--out", "run"], said))
    assert 0.01 < share(codes) < 0.5


SMALL = ["--prompt", "a red circle moving left", "--steps", "1", "--frames", "5", "--height", "32", "--width", "32"]


@pytest.mark.parametrize("count", [pytest.param(12, id="12"), pytest.param(150, id="150", marks=pytest.mark.slow)])
def test_models_with_an_odd_config_make_a_clip_or_one_line(outcome, count):
    codes = []
    for n in range(count):
        shutil.rmtree("model", ignore_errors=True)
        shutil.copytree(EMBEDDED, "model")
        Path("clip.mp4").unlink(missing_ok=True)
        said = f"model {n}: {spoil(random.Random(f'model {n}'), Path('model'))}"
        codes.append(outcome(["compress", "--out", "run", "--model", "model"], said))
        codes.append(outcome(["generate", "model", *SMALL], said))
    assert 0.05 < share(codes) < 0.8
