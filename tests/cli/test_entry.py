"""flc from Python."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

import flc as package
from flc.cli.app import app
from flc.errors import UserError
from tests.cli.small import SMALL

pytestmark = pytest.mark.usefixtures("place")


def test_compress_and_generate_do_what_the_commands_do(flc, place):
    """In another thread than the main one, too, as in a server or a notebook."""
    small = {key: value for key, value in SMALL.items() if not key.startswith("distill")}
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    code, _, err = flc("compress", "--out", "one", "--keep", 0.5, "--steps", 2, "--distiller", "euler",
                               "--recovery", "none", *sets)  # fmt: skip
    assert code == 0, err
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(package.compress, "two", keep=0.5, steps=2, distiller="euler", recovery="none", options=small)
        two = run.result()
    assert two.report.exists() and (two.pipeline / "model_index.json").exists()
    one = package.Run(place / "one").metrics()
    assert [row["scores"] for row in one["rows"]] == [row["scores"] for row in two.metrics()["rows"]]
    weights = "pipeline/transformer/diffusion_pytorch_model.safetensors"
    assert (place / "one" / weights).read_bytes() == (place / "two" / weights).read_bytes()
    clip = package.generate(two.pipeline, "a red circle moving left", "clip.gif", frames=5, height=16, width=16)
    code, _, err = flc("generate", "one/pipeline", "--prompt", "a red circle moving left", "--out", "same.gif",
                               "--frames", 5, "--height", 16, "--width", 16)  # fmt: skip
    assert code == 0 and clip.read_bytes() == (place / "same.gif").read_bytes(), err


def test_what_a_command_refuses_is_raised_with_its_line(place):
    with pytest.raises(UserError, match="no pruner named 'nobody'"):
        package.compress("out", pruner="nobody")
    with pytest.raises(UserError, match=r"distill.batch='many'"):
        package.compress("out", options={"distill.batch": "many"})
    assert not list(place.iterdir())


def test_the_functions_have_the_commands_flags():
    """But for what only a terminal has a use for."""
    terminals = {"engine", "zero", "offload", "dry_run", "ranks", "set_"}
    for function, but in ((package.compress, terminals), (package.generate, set())):
        command = next(c for c in app.registered_commands if c.callback.__name__ == function.__name__)
        flags = set(inspect.signature(command.callback).parameters) - but
        assert flags == set(inspect.signature(function).parameters) - {"options"}
