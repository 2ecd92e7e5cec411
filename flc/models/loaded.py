"""What was loaded is what the files hold. Stock loaders leave a tensor that is missing untrained or on the meta
device, and drop one that the config has no place for (a lowered depth field silently keeps the first blocks)."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flc.errors import UserError
from flc.models.folder import header
from flc.models.safe import weight_files

#: How parts of a language model that sees (Llava) begin in files, and in transformers since 4.52.
RENAMED = (
    ("language_model.model.", "model.language_model."),
    ("language_model.", ""),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.", "model.vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower.vision_model."),
)


def tensors(folder: Path) -> dict[str, Path]:
    """Name of every tensor of a component, and its file."""
    return {name: file for file in weight_files(folder) for name in header(file)}


def own_name(name: str, own: Container[str], module: Any) -> str:
    """What transformers reads a tensor into: an encoder that was saved as a part of a whole model has its name before
    each of them. (diffusers takes names as they are.)"""
    prefix = getattr(module, "base_model_prefix", None)
    if prefix is None or name in own:
        return name
    bare = name.removeprefix("text_model.").removeprefix("vision_model.").removeprefix(f"{prefix}.")
    found = [bare, *(f"{new}{name.removeprefix(old)}" for old, new in RENAMED if name.startswith(old))]
    return next((one for one in found if one in own), name)


def check_names(module: nn.Module, folder: Path) -> None:
    """The files hold every tensor of `module` (of tied ones any) and no other."""
    own = module.state_dict(keep_vars=True)
    held = {own_name(name, own, module): file for name, file in tensors(folder).items()}
    present = {id(own[name]) for name in held if name in own}  # tied weights are one object under several names
    for name, value in own.items():
        if id(value) not in present:
            raise UserError(f"{folder} lacks the tensor {name}, which its config.json asks for: download it again")
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    for name, file in held.items():
        if name not in own and not any(re.search(pattern, name) for pattern in ignored):
            raise UserError(
                f"{file} holds {name}, for which {folder / 'config.json'} has no place: download both again"
            )


def check_finite(module: nn.Module, folder: Path) -> None:
    held = tensors(folder)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.numel():
            ends = torch.stack(torch.aminmax(value))  # NaN goes through both; unlike isfinite(value) it needs no copy
            if not ends.isfinite().all():
                where = held.get(name, folder)
                raise UserError(
                    f"{where}: {name} is not finite in {value.dtype}: download it again, or --dtype float32"
                )


def check_loaded(module: Any, folder: Path) -> None:
    check_names(module, folder)
    check_finite(module, folder)
