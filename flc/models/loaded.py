"""What was loaded is what the files hold. Stock loaders leave a tensor that is missing untrained or on the meta
device, and drop one that the config has no place for (a lowered depth field silently keeps the first blocks)."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
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


#: What wrappers put into the names of a network's tensors, and how it is saved without them.
WRAPPERS = {
    "_orig_mod.": "a network that torch.compile wraps: save its `_orig_mod`",
    "module.": "a network that DistributedDataParallel wraps: save its `module`",
    "_fsdp_wrapped_module.": "a network that FSDP wraps: save its full state dict",
    "_checkpoint_wrapped_module.": "a network whose blocks are wrapped for checkpointing: save it without",
    "base_layer.": "a network with LoRA layers in it: save it after `merge_and_unload()` or `fuse_lora()`",
    "base_model.model.": "a network that PEFT wraps: save it after `merge_and_unload()`",
    "model.diffusion_model.": "a checkpoint in another program's layout: convert it with diffusers first",
}


def wrapper(held: Iterable[str], own: Container[str]) -> str:
    """What the names in a file say of how it was saved, where they are the network's own but for a wrapper's part."""
    for name in held:
        bare, parts = name, []
        for part in WRAPPERS:  # a network may be in several: one that is compiled, then distributed
            bare, found = re.subn(rf"(^|\.){re.escape(part)}", r"\1", bare)
            parts += [part] * bool(found)
        if parts and name not in own and bare in own:
            told = ", and as those of ".join(WRAPPERS[part] for part in parts)
            return f" (its names hold {' and '.join(map(repr, parts))}, as those of {told})"
    return ""


def check_names(module: nn.Module, folder: Path) -> None:
    """The files hold every tensor of `module` (of tied ones any) and no other."""
    own = module.state_dict(keep_vars=True)
    held = {own_name(name, own, module): file for name, file in tensors(folder).items()}
    present = {id(own[name]) for name in held if name in own}  # tied weights are one object under several names
    lacking = [name for name, value in own.items() if id(value) not in present]
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    left = [name for name in held if name not in own and not any(re.search(pattern, name) for pattern in ignored)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        why = wrapper(left, own) or ": weights and config must come from the same model"
        raise UserError(f"{folder} lacks the tensor {lacking[0]}{more}, which its config.json asks for{why}")
    for name in left:
        raise UserError(
            f"{held[name]} holds {name}, for which {folder / 'config.json'} has no place: weights and config must come "
            "from the same model"
        )


def check_finite(module: nn.Module, folder: Path) -> None:
    held = tensors(folder)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.numel():
            ends = torch.stack(torch.aminmax(value))  # NaN goes through both; unlike isfinite(value) it needs no copy
            if not ends.isfinite().all():
                where, kind = held.get(name, folder), "NaN" if ends.isnan().any() else "infinity"
                said = f"{where}: {name} is not finite in {value.dtype}, it holds {kind}"
                if value.dtype == torch.float16:
                    raise UserError(f"{said}: --dtype float32, if what the file says is only beyond that type")
                raise UserError(f"{said}: a training that diverged leaves such weights, take sound ones")


def check_loaded(module: Any, folder: Path) -> None:
    check_names(module, folder)
    check_finite(module, folder)
