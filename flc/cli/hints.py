"""Where an option lives that was looked for in another place."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flc.errors import UserError
from flc.recipe import ALGORITHMS, STAGE_OPTIONS, Recipe
from flc.registry import registry

#: What other programs call it.
ALIASES = {
    "batch_size": "batch", "train_batch_size": "batch", "learning_rate": "lr", "epochs": "iterations",
    "num_epochs": "iterations", "max_steps": "iterations", "max_train_steps": "iterations",
    "num_iterations": "iterations", "gradient_accumulation_steps": "accumulate",
    "gradient_checkpointing": "checkpointing", "guidance_scale": "guidance", "num_frames": "frames",
    "num_inference_steps": "steps", "output_dir": "out", "output": "out",
}  # fmt: skip


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections of a recipe with their options: of each kind of algorithm the default one's."""
    yield from STAGE_OPTIONS.items()
    for kind in ALGORITHMS:
        try:
            options: Any = registry().load(kind, getattr(Recipe(), kind).name).Options  # type: ignore[attr-defined]
        except UserError:  # a plugin that does not load; the command that asks for it says so
            continue
        yield kind, options


def places(name: str, near: str = "") -> list[str]:
    """How to set what is called `name`, in the words of the command line: of sections but `near` those first that are
    spelt most like it."""
    name = name.lstrip("-").replace("-", "_")
    name = ALIASES.get(name, name)
    if name == "out" or (name in Recipe.model_fields and name not in STAGE_OPTIONS and name not in ALGORITHMS):
        return [f"--{name.replace('_', '-')}"]
    found = [section for section, options in sections() if name in options.model_fields and section != near]
    found.sort(key=lambda section: -difflib.SequenceMatcher(None, section, near).ratio())
    return [f"--set {section}.{name}=..." for section in found]


def way_to(name: str, near: str = "") -> str:
    """`places` as a question, or nothing."""
    *others, last = places(name, near) or [""]
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def of_flag(error: Any) -> str:
    """The message of a wrong flag; of an unknown one of a command that takes `--set`, or has it under another name,
    with where it lives."""
    said = str(error.format_message())
    if type(error).__name__ != "NoSuchOption" or error.ctx is None:
        return said
    flags = {flag for parameter in error.ctx.command.params for flag in parameter.opts}
    offered = [place for place in places(error.option_name) if place.partition(" ")[0] in flags]
    return f"No such option: {error.option_name}: {way_to(error.option_name)}" if offered else said
