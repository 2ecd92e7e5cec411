"""Copies of a pipeline folder that differ from it in one known way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def entered(folder: Path, to: Path, file: str, entries: dict[str, Any]) -> Path:
    """With other entries in one of its JSON files."""
    path = shutil.copytree(folder, to) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return to


def lacking(folder: Path, to: Path, component: str) -> Path:
    shutil.copytree(folder, to)
    shutil.rmtree(to / component)
    return to


def prefixed(folder: Path, to: Path, component: str, prefix: str, but: int = 0) -> Path:
    """With tensors of a component named as of a part of a whole model; `but`: without the first so many."""
    return named(folder, to, component, lambda name: f"{prefix}{name.removeprefix(prefix)}", but)


def named(folder: Path, to: Path, component: str, name: Callable[[str], str], but: int = 0) -> Path:
    """With tensors of a component by other names."""
    file = shutil.copytree(folder, to) / component / "model.safetensors"
    held = {name(own): value for own, value in load_file(file).items()}
    save_file(dict(list(held.items())[but:]), file, {"format": "pt"})
    return to


def configs(folder: Path, to: Path) -> Path:
    """The configs that counting needs, alone."""
    for part in ("transformer", "vae", "scheduler"):
        (to / part).mkdir(parents=True)
        for config in (folder / part).glob("*.json"):
            shutil.copy(config, to / part)
    shutil.copy(folder / "model_index.json", to)
    return to
