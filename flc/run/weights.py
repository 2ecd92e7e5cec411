"""The transformers that lie in stages' folders, and in the user's own: checked, then loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flc.errors import UserError
from flc.models.config import check_types
from flc.models.folder import check_weights, read_json
from flc.models.loaded import check_finite, check_names
from flc.models.safe import check_component_is_plain, check_places
from flc.run.job import Job


def check_transformer(job: Job, folder: Path) -> Path:
    """Where the transformer of a stage's folder (or of a transformer folder itself) lies; checked without loading."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with a transformer's config.json and *.safetensors")
    path = folder / "transformer" if (folder / "transformer").exists() else folder
    check_places(folder)
    check_component_is_plain(path)
    check_weights(path)
    cls: Any = type(job.adapter.transformer)
    config = read_json(path / "config.json")
    if config.get("_class_name") != cls.__name__:
        raise UserError(f"{path} holds a {config.get('_class_name')}, not a {cls.__name__}")
    check_types(cls, config, path / "config.json")
    try:
        with torch.device("meta"):
            outline = cls.from_config(config)
    except Exception as error:  # a stranger's config may be wrong in any way
        raise UserError(unreadable(path, cls, error)) from error
    check_names(outline, path)
    return path


def unreadable(path: Path, cls: Any, error: Exception) -> str:
    return f"{path} does not load as a {cls.__name__}: {(str(error) or type(error).__name__).splitlines()[0]}"


def check_shape(job: Job, plan: dict[str, Any], folder: Path, pruned: bool) -> None:
    """Weights must be of the model's shape but for the channels that the plan leaves and, where they are `pruned`, the
    blocks."""
    config, adapter = read_json(check_transformer(job, folder) / "config.json"), job.adapter
    own: Any = dict(adapter.transformer.config)
    expected = {entry: value for entry, value in own.items() if entry in config and not entry.startswith("_")}
    if plan["channels"] is not None:
        expected |= {entry: len(plan["channels"][stack][0]) for stack, entry in adapter.ffn.items()}
    if pruned:
        expected |= {entry: len(plan["kept"][stack]) for stack, entry in adapter.stacks.items()}
    for entry, value in expected.items():
        found = config.get(entry)
        if (tuple(found) if isinstance(found, list) else found) != (tuple(value) if isinstance(value, list) else value):
            wanted = f"under this plan a {'pruned' if pruned else 'whole'} network has {value}"
            raise UserError(f"{folder} has {entry}={found}, {wanted}: give weights that were made of this model so")


def read_transformer(job: Job, folder: Path) -> Any:
    """What `check_transformer` finds, whole and finite, in the run's precision."""
    path = check_transformer(job, folder)
    cls: Any = type(job.adapter.transformer)
    try:
        module = cls.from_pretrained(path, dtype=job.adapter.dtype, local_files_only=True, use_safetensors=True)
    except Exception as error:
        raise UserError(unreadable(path, cls, error)) from error
    check_finite(module, path)
    return module.requires_grad_(False).eval()


def load_transformer(job: Job, folder: Path) -> Any:
    """The same, ready for the job's adapter."""
    return job.adapter.prepare(read_transformer(job, folder).to(job.adapter.device))
