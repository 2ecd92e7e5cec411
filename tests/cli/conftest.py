"""Running the program inside the test's process."""

from __future__ import annotations

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
