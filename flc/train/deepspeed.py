"""DeepSpeed behind the `Engine` protocol: ZeRO 1, 2 and 3. The only file that imports deepspeed.

One deepspeed engine per trained role, over that role's parameters alone; under ZeRO-3 one more, without an
optimizer, for each frozen module, so that it is sharded too, unless gradients pass through it. A LoRA role shares
its engine with the frozen weights it sits on. Weights, gradients and norms are those of `PlainEngine` on the whole
batch, up to the order in which gradients are summed over ranks.

ZeRO-3 keeps the last gradient of a parameter that none reached and would apply it again at every step: what a
backward did not reach (a skipped block) is set to zero between backward and step. ZeRO 1 and 2 do so themselves.

Checkpoints are deepspeed's own (pickles of this run, in its folder), with the averages beside them.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flc.api import Optim, Role
from flc.errors import UserError
from flc.models.folder import read_tensors
from flc.train.engine import Averaged, finite, followers
from flc.train.nets import trainable

#: Other ranks wait at a barrier while the leader evaluates, which takes hours on a large model.
#: A rank that dies is noticed by the launcher, not by this.
TIMEOUT = timedelta(hours=24)


def library() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"--engine deepspeed needs deepspeed ({error}): pip install 'flc[deepspeed]'") from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def initialise(device: str) -> None:
    """Join the process group that the launcher's environment names, or be one of a single process."""
    where = torch.device(device)
    if where.type not in ("cpu", "cuda"):
        raise UserError(f"--engine deepspeed runs on cpu or cuda, not on --device {device}: use --engine plain")
    if where.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read at deepspeed's import
    deepspeed = library()
    if "WORLD_SIZE" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": str(where.index or 0)}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())})
    if where.type == "cuda":
        torch.cuda.set_device(int(os.environ.setdefault("LOCAL_RANK", "0")))
    backend = "gloo" if where.type == "cpu" else "nccl"
    with redirect_stdout(sys.stderr):  # it prints
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=TIMEOUT)


def leave(code: int) -> None:
    """End a rank over gloo with this exit code, without tearing the interpreter down; returns in any other process.

    gloo's threads outlive the interpreter and end a finished rank with SIGABRT every now and then, even when its group
    was left before. nccl has no such threads, and leaving its group waits for ranks that a failed one has left behind:
    it goes with the process. What was registered for the exit is still done: torch removes scratch folders there.
    """
    if not dist.is_initialized() or dist.get_backend() != "gloo" or dist.get_world_size() == 1:
        return
    if code == 0:
        dist.destroy_process_group()
    atexit._run_exitfuncs()  # the only way to run them before `os._exit`, which skips them
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_optim(optim: Optim | None) -> None:
    if optim is not None and optim.matrices:
        raise UserError(
            "--engine deepspeed has AdamW only: set the options named `matrices` to 0, or use --engine plain"
        )


def settings(
    module: nn.Module, optim: Optim | None, zero: int, local_batch: int, offload: bool = False, parts: int = 1
) -> dict[str, Any]:
    """deepspeed's configuration of one engine; without `optim`, of frozen weights. `local_batch`: clips of one of a
    rank's `parts` of a batch. `offload`: masters and moments are held, and updated, on the CPU."""
    dtypes = {p.dtype for p in module.parameters()}
    if torch.float16 in dtypes:
        raise UserError("--engine deepspeed trains in float32 or bfloat16: float16 would need loss scaling")
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": local_batch,
        "gradient_accumulation_steps": parts,
        "bf16": {"enabled": torch.bfloat16 in dtypes},
        "zero_optimization": {"stage": zero},
    }
    if optim is None:
        return config
    if offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW, the same as without
    adamw = {"lr": optim.lr, "betas": optim.betas, "weight_decay": optim.weight_decay}
    config["optimizer"] = {"type": "AdamW", "params": adamw | {"torch_adam": True, "adam_w_mode": True}}
    config["gradient_clipping"] = optim.clip  # deepspeed clips at 1 when it is not told
    return config


CPU = torch.device("cpu")


class DeepSpeedEngine:
    """Several processes; each holds a slice of every batch and, by ZeRO stage, of optimizer, gradients, weights."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        roles: Mapping[str, Role],
        zero: int,
        local_batch: int,
        offload: bool = False,
        parts: int = 1,
    ) -> None:
        self.modules, self.roles, self.zero, self.offload, self.parts = modules, roles, zero, offload, parts
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.parameters = {n: trainable(modules[n], r) for n, r in roles.items() if r.optim}
        self.reached: set[nn.Parameter] = set()
        self.engines: dict[int, Any] = {}
        self.hooks: list[Any] = []
        self.device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU
        # deepspeed loses count of a sharded module that has nothing to train when a gradient passes through it
        whole = {id(modules[name]) for name, role in roles.items() if role.passes}
        trained = {id(modules[name]) for name in self.parameters}
        # Each whole network is on the device for the moment before it is sharded: the frozen ones first.
        for module in modules.values() if zero == 3 else ():
            if id(module) in whole:
                module.to(self.device)
            elif id(module) not in trained and id(module) not in self.engines:
                self._wrap(module, None, None, local_batch)
        for name, parameters in self.parameters.items():
            assert id(modules[name]) not in self.engines, "two trained roles share one module"
            check_optim(roles[name].optim)
            modules[name].to(self.device)
            self.activate(name)  # deepspeed takes what requires a gradient
            for p in parameters.values():
                # before deepspeed's own, which takes `p.grad` away
                self.hooks.append(p.register_post_accumulate_grad_hook(self._record))
            self._wrap(modules[name], roles[name].optim, list(parameters.values()), local_batch)
        #: Of the parts of a batch so far: losses, and the sum of squares of every gradient that was reached.
        self.losses: list[Tensor] = []
        self.square = torch.zeros((), device=self.device)
        #: In float32; of the whole weights under ZeRO 1 and 2, of this rank's shards under ZeRO-3.
        self.averages = {n: Averaged(self._held(n), roles[n].ema) for n in self.parameters if roles[n].ema}
        for name in self.parameters:
            self.averages |= {f: Averaged(self._held(name), roles[f].ema) for f in followers(name, roles)}

    def _wrap(self, module: nn.Module, optim: Optim | None, parameters: Any, local_batch: int) -> None:
        config = settings(module, optim, self.zero, local_batch, self.offload, self.parts)
        self.engines[id(module)] = library().initialize(model=module, model_parameters=parameters, config=config)[0]

    def _engine(self, role: str) -> Any:
        return self.engines[id(self.modules[role])]

    def _held(self, role: str) -> dict[str, Tensor]:
        """What this rank holds of each parameter: all of it, or its flat shard under ZeRO-3."""
        return {n: held(p).detach().float() for n, p in self.parameters[role].items()}

    def _record(self, p: Tensor) -> None:
        assert p.grad is not None and isinstance(p, nn.Parameter)
        self.reached.add(p)
        self.square += torch.linalg.vector_norm(p.grad, dtype=torch.float32).square()

    # -- one step -------------------------------------------------------------------------------------------

    def call(self, role: str) -> Any:
        return self.engines.get(id(self.modules[role]), self.modules[role])

    def activate(self, role: str) -> None:
        for name, parameters in self.parameters.items():
            for p in parameters.values():
                p.requires_grad_(name == role)

    def backward(self, role: str, loss: Tensor) -> None:
        engine = self._engine(role)
        if self.losses:
            engine.step()  # between parts deepspeed counts them by it, and updates nothing
        engine.backward(loss)
        self.losses.append(loss.detach().float())

    def step(self, role: str, lr_factor: float = 1.0) -> float:
        engine, optim = self._engine(role), self.roles[role].optim
        assert optim is not None
        self._finite(role, torch.stack(self.losses).mean())
        if self.zero == 3:
            from deepspeed.utils import safe_set_local_grad

            for p in self.parameters[role].values():
                if p not in self.reached:
                    safe_set_local_grad(p, torch.zeros_like(held(p)))
        for group in engine.optimizer.param_groups:
            group["lr"] = optim.lr * lr_factor
        engine.step()
        for name in (role, *followers(role, self.roles)):
            if name in self.averages:
                self.averages[name].update(self._held(role))
            if name != role:
                self._lead(name)
        self.reached.clear()
        self.square.zero_()
        self.losses.clear()
        return float(engine.get_global_grad_norm())

    @torch.no_grad()
    def _lead(self, follower: str) -> None:
        """The average's values into the follower's weights; under ZeRO-3 its shards lie as the leader's do.

        ZeRO-3 keeps small parameters whole after a forward and gathers them again after an optimizer's step only:
        a follower has none, so what was gathered of its old weights is dropped here.
        """
        if self.zero == 3:
            self._engine(follower).optimizer.partition_all_parameters()
        for name, p in self.modules[follower].named_parameters():
            held(p).copy_(self.averages[follower].values[name])

    def _finite(self, role: str, loss: Tensor) -> None:
        """Raise on every rank when one rank's loss or gradient is not finite: sums over ranks keep NaN and inf.

        The root of the sum of all ranks' squared gradients is no less than the norm of their mean.
        """
        total = torch.stack([loss, self.square])
        dist.all_reduce(total)
        finite(total[0] / self.world, total[1].sqrt(), role)

    def barrier(self) -> None:
        dist.barrier()

    def any(self, flag: bool) -> bool:
        flags = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def total(self, count: int) -> int:
        counts = torch.tensor(count, device=self.device)
        dist.all_reduce(counts)
        return int(counts)

    def close(self) -> None:
        """Hooks keep engines alive in cycles that nothing collects, so what is large is dropped by hand: under ZeRO-3
        also the shards, after which the modules hold nothing."""
        for hook in self.hooks:
            hook.remove()
        for engine in self.engines.values():
            engine.destroy()
            getattr(engine.optimizer, "state", {}).clear()  # a frozen module's engine has none
            if self.zero == 3:
                vars(engine.optimizer).clear()
        for module in self.modules.values() if self.zero == 3 else ():
            for p in module.parameters():
                if hasattr(p, "ds_tensor"):
                    p.ds_tensor = None
        self.engines.clear()
        gc.collect()

    # -- checkpoints and export -----------------------------------------------------------------------------

    @property
    def _tag(self) -> str:
        return f"zero{self.zero}"

    def _average_file(self, folder: Path, role: str, average: str) -> Path:
        return folder / role / f"ema-{average}-{self.rank if self.zero == 3 else 0}.safetensors"

    def _averages_of(self, role: str) -> list[str]:
        return [a for a in (role, *followers(role, self.roles)) if a in self.averages]

    def save(self, folder: Path) -> None:
        for role in self.parameters:
            self.activate(role)  # what is frozen at this moment is left out: a LoRA's base weights
            self._engine(role).save_checkpoint(
                str(folder / role), self._tag, save_latest=False, exclude_frozen_parameters=True
            )
            for name in self._averages_of(role) if self.zero == 3 or self.rank == 0 else ():
                average = self.averages[name]
                path = self._average_file(folder, role, name)
                save_file(average.values, path, {"count": json.dumps(average.count)})

    def load(self, folder: Path) -> None:
        for role in self.parameters:
            self.activate(role)
            if not (folder / role / self._tag).is_dir():
                raise UserError(f"{folder} was not written under --zero {self.zero}: resume as it began")
            self._engine(role).load_checkpoint(
                str(folder / role), self._tag, load_module_strict=False, load_lr_scheduler_states=False
            )
            for name in self._averages_of(role):
                path, average = self._average_file(folder, role, name), self.averages[name]
                average.values = read_tensors(path, str(self.device))
                with safe_open(path, "pt") as file:
                    average.count = json.loads(file.metadata()["count"])
                if name != role:
                    self._lead(name)

    @torch.no_grad()
    def export(self, role: str, averaged: bool = True) -> dict[str, Tensor] | None:
        """Full state dict on the leader's CPU, `averaged` where the role keeps an average. All ranks take part."""
        averages = self.averages[role].values if averaged and role in self.averages else {}
        state: dict[str, Tensor] = {}
        for name, value in self.modules[role].state_dict(keep_vars=True).items():
            whole = gathered(averages.get(name, held(value)), value)
            if self.rank == 0:
                state[name] = whole.detach().to("cpu", value.dtype, copy=True)
        return state if self.rank == 0 else None


def held(p: Tensor) -> Tensor:
    """This rank's flat shard (padded to the same length on each rank) of a ZeRO-3 parameter; others as they are."""
    return getattr(p, "ds_tensor", p)


def gathered(local: Tensor, like: Any) -> Tensor:
    """The whole tensor whose shards the ranks hold as `local`, in the shape of the ZeRO-3 parameter `like`."""
    if not hasattr(like, "ds_tensor"):
        return local
    flat = local.new_empty(local.numel() * dist.get_world_size())
    dist.all_gather_into_tensor(flat, local.flatten())
    return flat[: like.ds_numel].view(like.ds_shape)
