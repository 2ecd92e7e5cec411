"""A plan's file: which blocks, and which of their channels, stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flc.api import Channels
from flc.errors import UserError
from flc.models.channels import narrowed
from flc.models.folder import read_json
from flc.run.job import Job

PLAN = "plan.json"


def read_plan(job: Job, folder: Path) -> dict[str, Any]:
    """The plan of a folder (or file), which fits the job's model."""
    path = folder / PLAN if folder.is_dir() else folder
    plan = read_json(path)
    if "kept" not in plan:
        raise UserError(f"{path} holds no plan (kept blocks): it is written by `flc score`")
    after = plan.get("after", 0)
    if type(after) is not int or after < 0:
        raise UserError(
            f"{path}: after={after!r:.40} must be how many iterations of stage II came before it, 0 for none"
        )
    return {"pruner": "given"} | fitting(job, plan, path)


def fitting(job: Job, plan: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """A plan from JSON, checked against the job's model; `path` says where it is from."""
    whole, kept = job.prunable.full, plan["kept"]
    if not isinstance(kept, dict) or kept.keys() != whole.keys():
        raise UserError(
            f"{path}: kept must name the blocks that stay of each of this model's stacks ({', '.join(whole)})"
        )
    for stack, blocks in kept.items():
        if not rising(blocks, len(whole[stack])):
            number = len(whole[stack])
            raise UserError(f"{path}: kept.{stack}={blocks} must be rising numbers of blocks, 0 to {number - 1}")
    plan["kept"] = {stack: tuple(blocks) for stack, blocks in kept.items()}
    return plan | {"channels": read_channels(job, plan.get("channels"), path)}


def rising(numbers: Any, stop: int) -> bool:
    """Whether this is a list of rising whole numbers, at least one, from 0 and below `stop`."""
    # type(): True and 1.0 are equal to 1, too
    if not isinstance(numbers, list) or not numbers or any(type(i) is not int for i in numbers):
        return False
    return numbers == sorted(set(numbers)) and numbers[0] >= 0 and numbers[-1] < stop


def read_channels(job: Job, channels: Any, path: Path | str) -> Channels | None:
    """A plan's channels, which fit the job's model; None where all stay."""
    if channels is None:
        return None
    if not isinstance(channels, dict) or channels.keys() != job.prunable.full.keys():
        raise UserError(f"{path}: channels must name those that stay of each of this model's stacks, or be null")
    for stack, blocks in channels.items():
        if stack not in job.prunable.ffn:
            raise UserError(f"{path}: channels of {stack}: feed-forward layers of this family cannot be narrowed")
        (total, _), depth = job.prunable.ffn[stack], len(job.prunable.full[stack])
        lists = isinstance(blocks, list) and len(blocks) == depth and all(isinstance(b, list) and b for b in blocks)
        if not lists or len({len(b) for b in blocks}) > 1 or not all(rising(b, total) for b in blocks):
            raise UserError(f"{path}: channels.{stack} must be {depth} lists of rising numbers below {total}, all of "
                            "one length")  # fmt: skip
    return channels


def original(job: Job, plan: dict[str, Any]) -> tuple[Any, Any]:
    """The model's transformer as stages work on it: narrowed by the plan; and, where it was, the one it came from."""
    whole = job.adapter.transformer
    return narrowed(job.adapter, whole, plan["channels"]), None if plan["channels"] is None else whole
