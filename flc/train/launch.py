"""Ranks of a run: one process, or the process group that `torchrun` (or a deepspeed launcher) started."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flc.errors import UserError

T = TypeVar("T")

#: Where ranks find each other; launchers set them.
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def leader(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        return f"cuda:{self.local}" if name == "cuda" and self.world > 1 else name

    def shared(self, text: str) -> str:
        """The leader's text, on every rank."""
        if self.world == 1:
            return text
        import torch.distributed as dist

        holder = [text]
        dist.broadcast_object_list(holder)
        return holder[0]

    def agreed(self, look: Callable[[], T]) -> T:
        """What the leader finds when it looks, on every rank, as JSON has it; a `UserError` of its is raised by all."""
        if self.world == 1:
            return look()
        found, fault = None, ""
        if self.leader:
            try:
                found = look()
            except UserError as error:
                fault = str(error)
        found, fault = json.loads(self.shared(json.dumps([found, fault])))
        if fault:
            raise UserError(fault)
        return found

    def barrier(self) -> None:
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


def from_environment(engine: str, device: str) -> Ranks:
    """Join the group when the environment names one; several ranks need `--engine deepspeed`."""
    rank, world, local = (number(*pair) for pair in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if world == 1 and engine == "plain":
        return Ranks()
    if rank >= world:
        raise UserError(f"RANK={rank} in the environment is beyond WORLD_SIZE={world}: start with torchrun")
    if engine == "plain":
        raise UserError(f"{world} processes were started but --engine is plain: add --engine deepspeed")
    if missing := [name for name in MEETING if "WORLD_SIZE" in os.environ and name not in os.environ]:
        raise UserError(f"WORLD_SIZE is in the environment and {missing[0]} is not: start with torchrun, or unset it")
    check_gpus(world, local, device)
    from flc.train.deepspeed import initialise

    initialise(device)
    return Ranks(rank, world, local)


def check_gpus(world: int, local: int, device: str) -> None:
    """That each rank of a machine has a GPU of its own."""
    import torch

    kind, index = torch.device(device).type, torch.device(device).index
    if kind != "cuda" or world == 1:
        return
    if index is not None:
        raise UserError(f"--device {device} is one GPU, and {world} processes were started: give --device cuda")
    if local >= torch.cuda.device_count():
        text = f"{local + 1} processes or more were started on this machine, which has {torch.cuda.device_count()} GPUs"
        raise UserError(f"{text}: give --nproc-per-node {torch.cuda.device_count()}")


def number(name: str, otherwise: int) -> int:
    """What a launcher says in the environment."""
    value = os.environ.get(name, str(otherwise))
    if not value.isdecimal():
        raise UserError(f"{name}={value} in the environment is no number: it is set by torchrun, unset it without one")
    return int(value)
