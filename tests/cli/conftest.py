"""Running the program inside the test's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from flc.cli import main


@pytest.fixture
def flc(capsys):
    """`flc(*arguments)` -> (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "FLC_PLUGINS", "FLC_PLUGINS_STRICT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def unloaded(monkeypatch):
    """Loading the model is a failure: what can be refused without it must be refused before it."""

    def load(*arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("flc.models.wan.WanAdapter.load", load)


def state(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(flc, place):
    """Run; the one line of the error, after checking that it is one and that nothing was written."""

    def run(*arguments: object) -> str:
        before = state(place)
        code, out, err = flc(*arguments)
        lines = err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("flc: error: "), err
        assert code == 2, err
        assert out == ""
        assert state(place) == before
        return lines[0].removeprefix("flc: error: ")

    return run
