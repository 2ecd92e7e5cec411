"""`OUT/pipeline`: a stock diffusers folder with the student and the scheduler it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from flc.errors import UserError
from flc.models.folder import NOTES, read_json
from flc.schedule import FewStepSchedule

#: Scheduler settings that must agree between training and deployment.
SIGMA_TOLERANCE = 1e-6


def write_pipeline(
    adapter: Any, student: nn.Module, schedule: FewStepSchedule, declared: dict[str, Any], folder: Path
) -> None:
    """Save the pipeline of a student that `declared` describes."""
    check_schedule(declared, schedule)
    adapter.save_pipeline(folder, student, schedule.scheduler)
    for config in folder.glob("*/config.json"):  # where its parts lay on this machine is nobody's business
        values = {name: value for name, value in read_json(config).items() if name != "_name_or_path"}
        config.write_text(json.dumps(values, indent=2) + "\n")
    (folder / NOTES).write_text(json.dumps(declared, indent=1))


def check_schedule(declared: dict[str, Any], schedule: FewStepSchedule) -> None:
    """Refuse a schedule that is not the one `student.json` says it was trained on."""
    trained = declared["sigmas"]
    if declared["sampler"] != schedule.sampler or len(trained) != len(schedule.sigmas):
        raise UserError(f"the student was trained as {declared['sampler']} on {declared['steps']} steps: export it so")
    if max(abs(a - b) for a, b in zip(trained, schedule.sigmas, strict=True)) > SIGMA_TOLERANCE:
        raise UserError(f"the student was trained on sigmas {trained}, the scheduler gives {list(schedule.sigmas)}")
