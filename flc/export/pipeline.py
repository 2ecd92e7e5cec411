"""`OUT/pipeline`: a stock diffusers folder with the student and the scheduler it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from flc.errors import UserError
from flc.models.folder import INDEX, NOTES, read_json
from flc.models.safe import components, read_files
from flc.schedule import FewStepSchedule

#: Scheduler settings that must agree between training and deployment.
SIGMA_TOLERANCE = 1e-6


def write_pipeline(
    adapter: Any, model: Path, student: nn.Module, schedule: FewStepSchedule, declared: dict[str, Any], folder: Path
) -> None:
    """Save the pipeline of a student that `declared` describes and that was made of the folder `model`."""
    check_schedule(declared, schedule)
    save_pipeline(adapter, model, student, schedule.scheduler, folder)
    for config in folder.glob("*/config.json"):  # where its parts lay on this machine is nobody's business
        values = {name: value for name, value in read_json(config).items() if name != "_name_or_path"}
        config.write_text(json.dumps(values, indent=2) + "\n")
    (folder / NOTES).write_text(json.dumps(declared, indent=1))


def save_pipeline(adapter: Any, model: Path, transformer: Any, scheduler: Any, folder: Path) -> None:
    """The stock folder `model` with another transformer and scheduler. All other parts are its own files: loaders that
    save what they have read lose what they do not know, of tokenizers above all."""
    index, own = read_json(model / INDEX), {"transformer": transformer, "scheduler": scheduler}
    folder.mkdir(parents=True, exist_ok=True)
    for name in components(index):
        if name not in own:
            for path in read_files(model / name):
                place = folder / path.relative_to(model)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    for name, part in own.items():
        part.save_pretrained(folder / name)
        index[name] = ["diffusers", type(part).__name__]
    index |= {"_class_name": adapter.stock_class(False).__name__, "_diffusers_version": diffusers.__version__}
    index |= adapter.mend(folder, index)
    index.pop("_name_or_path", None)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def check_schedule(declared: dict[str, Any], schedule: FewStepSchedule) -> None:
    """Refuse a schedule that is not the one `student.json` says it was trained on."""
    trained = declared["sigmas"]
    if declared["sampler"] != schedule.sampler or len(trained) != len(schedule.sigmas):
        raise UserError(f"the student was trained as {declared['sampler']} on {declared['steps']} steps: export it so")
    if max(abs(a - b) for a, b in zip(trained, schedule.sigmas, strict=True)) > SIGMA_TOLERANCE:
        raise UserError(f"the student was trained on sigmas {trained}, the scheduler gives {list(schedule.sigmas)}")
