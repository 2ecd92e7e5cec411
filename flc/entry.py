"""flc from Python: what the commands do, as functions. torch is imported when one is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Place = str | Path


@dataclass(frozen=True)
class Run:
    """A finished run: `run = flc.compress("out", keep=0.7, steps=4)`."""

    out: Path

    @property
    def pipeline(self) -> Path:
        """The student: a diffusers folder."""
        return self.out / "pipeline"

    @property
    def report(self) -> Path:
        """The page that shows what was done."""
        return self.out / "report.html"

    def metrics(self) -> dict[str, Any]:
        """The table's numbers: `rows`, each with its `scores`, and what these are."""
        from flc.files import read_json

        return read_json(self.out / "metrics.json")


def compress(
    out: Place = "flc-out",
    *,
    model: Place | None = None,
    data: Place | None = None,
    recipe: Place | None = None,
    pruner: str | None = None,
    keep: float | None = None,
    recovery: str | None = None,
    distiller: str | None = None,
    teacher: str | None = None,
    steps: int | None = None,
    preset: str | None = None,
    seed: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    guidance: float | None = None,
    negative_prompt: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    resume: bool = False,
    until: str | None = None,
    store: Place | None = None,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """`flc compress`: a few-step student with fewer blocks, in the folder `out`.

    Args:
        out: The run's folder, which must be empty unless `resume` goes on in it.
        model: A diffusers pipeline folder; the embedded tiny-wan when absent.
        data: Videos with texts beside them, or a list of such; drawn clips when absent.
        recipe: A recipe.yaml, or another run's recipe.lock.yaml, under what is given here.
        options: What `--set` takes, such as `{"distill.batch": 8}`.

    Further arguments are the command's flags; `flc compress --help` says what they do, and None leaves the recipe's
    value. Raises `flc.errors.UserError`, whose text is one line with a way out, for what the command exits 2 on.
    """
    from flc.run.compress import compress as run

    given = {"pruner": pruner, "keep": keep, "recovery": recovery, "distiller": distiller, "teacher": teacher,
             "steps": steps, "preset": preset, "seed": seed, "height": height, "width": width, "frames": frames,
             "guidance": guidance, "negative_prompt": negative_prompt, "device": device, "dtype": dtype}  # fmt: skip
    places = {"model": model, "data": data, "recipe": recipe, "store": store}
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in (options or {}).items()}
    sets = [f"{name}={text}" for name, text in texts.items()]
    values = given | {name: None if place is None else Path(place) for name, place in places.items()}
    run(values | {"out": Path(out), "set_": sets, "resume": resume, "until": until, "dry_run": False, "ranks": None})
    return Run(Path(out))


def generate(
    pipeline: Place,
    prompt: str,
    out: Place = "clip.mp4",
    *,
    image: Place | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    negative_prompt: str = "",
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """`flc generate`: a clip of a folder's stock pipeline, written to `out` (.mp4, .gif or .webp). Returns that path.

    Raises `flc.errors.UserError` for what the command exits 2 on.
    """
    from flc.run.generate import generate as run

    first = None if image is None else Path(image)
    run(Path(pipeline), prompt, first, seed, steps, guidance, height, width, frames, negative_prompt, device, dtype,
        Path(out))  # fmt: skip
    return Path(out)
