"""How roles are stepped: the protocol both engines follow, and the plain one.

One optimizer per trainable role, one role updated per phase; every other parameter has `requires_grad` off
(with two engines, one's backward would otherwise leak into the other). A skipped block has a zero gradient under
AdamW, never None and never a stale one, in every engine: AdamW would pass over None (no decay, no momentum) where
ZeRO treats it as zero, and ZeRO-3 would apply the block's last gradient again. Muon, which the plain engine alone has,
normalises its momentum: there a skipped block rests (`flc.train.muon`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flc.api import Role
from flc.errors import NonFinite, UserError
from flc.models.folder import read_tensors
from flc.train.muon import Muon
from flc.train.nets import trainable


class Engine(Protocol):
    """What the loop needs. Ranks draw the same shared randomness and hold a slice of each batch."""

    rank: int
    world: int

    def call(self, role: str) -> Any:
        """What is called in place of the role's module."""

    def activate(self, role: str) -> None:
        """Make this role's parameters the only ones that require a gradient."""

    def backward(self, role: str, loss: Tensor) -> None:
        """Of one part of the batch; the gradients of its parts are averaged."""

    def step(self, role: str, lr_factor: float) -> float:
        """After the last part: check, clip, update, average; returns the gradient norm before clipping."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def export(self, role: str, averaged: bool = True) -> dict[str, Tensor] | None:
        """The weights a role hands on, `averaged` where it keeps an average, or those it trains; None off rank 0."""

    def barrier(self) -> None:
        """Wait for every rank."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank asks at the same point."""

    def total(self, count: int) -> int:
        """The sum of every rank's number; every rank asks at the same point."""

    def close(self) -> None:
        """Free the optimizer states; the engine is not used after it."""


class Averaged:
    """Exponential moving average of parameters, with a short ramp so that early weights do not linger.

    A role keeps one of itself to hand on (`Role.ema`); a `follow` role is one of another role, and runs.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.count = decay, 0
        self.values = {n: p.detach().clone() for n, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 10))
        for name, p in parameters.items():
            self.values[name].lerp_(p.detach(), 1 - decay)


def finite(loss: Tensor, norm: Tensor, role: str) -> None:
    """Stop before the optimizer steps."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not torch.isfinite(value):
            raise NonFinite(
                f"the {name} of {role!r} is {float(value.detach())}; nothing was updated: run again with --resume and "
                f"a lower learning rate, which starts this stage anew"
            )


def followers(role: str, roles: Mapping[str, Role]) -> list[str]:
    return [name for name, other in roles.items() if other.train == "follow" and other.of == role]


def master(p: nn.Parameter) -> Tensor:
    """What the optimizer steps in place of `p`: itself, or a float32 copy."""
    if p.dtype == torch.float16:
        raise UserError("--dtype float16 cannot train (gradients underflow): use bfloat16 or float32")
    return p if p.dtype == torch.float32 else p.detach().float().clone()


class PlainEngine:
    """One process, one device, plain torch.

    The optimizer steps float32 masters: at the rates of distillation an update is far below bfloat16's
    resolution, and a weight stepped in it would hardly ever move. In float32 the weights are their own masters.
    """

    rank, world = 0, 1

    def __init__(
        self, modules: Mapping[str, nn.Module], roles: Mapping[str, Role], parts: int = 1, stacks: Iterable[str] = ()
    ) -> None:
        """`stacks`: the names of the family's lists of blocks, whose matrices Muon may move."""
        self.modules, self.roles, self.parts = modules, roles, parts
        self.blocks = tuple(f"{stack}." for stack in stacks)
        self.loss = torch.zeros(())
        self.parameters = {n: trainable(modules[n], r) for n, r in roles.items() if r.optim}
        self.masters = {n: {k: master(p) for k, p in ps.items()} for n, ps in self.parameters.items()}
        self.optimizers = {n: self._optimizers(n) for n in self.parameters}
        self.averages = {n: Averaged(m, roles[n].ema) for n, m in self.masters.items() if roles[n].ema}
        for name in self.parameters:
            self.averages |= {f: Averaged(self.masters[name], roles[f].ema) for f in followers(name, roles)}

    def _optimizers(self, name: str) -> list[tuple[torch.optim.Optimizer, list[str]]]:
        """AdamW, and Muon for the matrices of a full role's blocks where the role asks for it (an adapter's are too
        thin); each with its parameters' names."""
        o, masters = self.roles[name].optim, self.masters[name]
        assert o is not None
        matrices = [n for n, p in masters.items() if o.matrices and p.ndim == 2 and self._of_block(name, n)]
        others = [n for n in masters if n not in set(matrices)]
        out: list[tuple[torch.optim.Optimizer, list[str]]] = []
        if others:
            values = [masters[n] for n in others]
            out.append((torch.optim.AdamW(values, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay), others))
        if matrices:
            values = [masters[n] for n in matrices]
            out.append((Muon(values, lr=o.matrices, weight_decay=o.weight_decay), matrices))
        for optimizer, _ in out:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        return out

    def _of_block(self, role: str, name: str) -> bool:
        return self.roles[role].train == "full" and name.startswith(self.blocks)

    def call(self, role: str) -> nn.Module:
        return self.modules[role]

    def activate(self, role: str) -> None:
        for name, parameters in self.parameters.items():
            for p in parameters.values():
                p.requires_grad_(name == role)

    def backward(self, role: str, loss: Tensor) -> None:
        loss = loss / self.parts
        loss.backward()
        self.loss = self.loss.to(loss.device) + loss.detach()

    def step(self, role: str, lr_factor: float = 1.0) -> float:
        o, masters = self.roles[role].optim, self.masters[role]
        assert o is not None
        rests = {n for optimizer, names in self.optimizers[role] if isinstance(optimizer, Muon) for n in names}
        for name, p in self.parameters[role].items():
            if p.grad is not None:
                masters[name].grad = p.grad.float()
            elif name not in rests:
                masters[name].grad = torch.zeros_like(masters[name])
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), o.clip)
        loss, self.loss = self.loss, torch.zeros(())
        finite(loss, norm, role)
        for optimizer, _ in self.optimizers[role]:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * lr_factor
            optimizer.step()
        self._publish(role)
        for name, p in self.parameters[role].items():
            masters[name].grad = p.grad = None
        for name in (role, *followers(role, self.roles)):
            if name in self.averages:
                self.averages[name].update(masters)
            if name != role:
                self._lead(name)
        return float(norm)

    @torch.no_grad()
    def _lead(self, follower: str) -> None:
        """The average's values into the follower's weights."""
        for name, p in self.modules[follower].named_parameters():
            p.copy_(self.averages[follower].values[name])

    @torch.no_grad()
    def _publish(self, role: str) -> None:
        """The masters' values into the weights that run."""
        for name, p in self.parameters[role].items():
            if p is not self.masters[role][name]:
                p.copy_(self.masters[role][name])

    # -- checkpoints: safetensors only ----------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        for name in self.parameters:
            flat = {f"weight.{n}": p.detach() for n, p in self.masters[name].items()}
            for optimizer, names in self.optimizers[name]:
                for i, state in optimizer.state_dict()["state"].items():
                    flat |= {f"optim.{key}.{names[i]}": value for key, value in state.items()}
            counts = {}
            for average in (a for a in (name, *followers(name, self.roles)) if a in self.averages):
                flat |= {f"ema.{average}.{n}": v for n, v in self.averages[average].values.items()}
                counts[average] = self.averages[average].count
            save_file(
                {k: v.contiguous() for k, v in flat.items()},
                folder / f"{name}.safetensors",
                {"counts": json.dumps(counts)},
            )

    def load(self, folder: Path) -> None:
        for name, parameters in self.parameters.items():
            path = folder / f"{name}.safetensors"
            flat = read_tensors(path, str(next(iter(parameters.values())).device))
            names = list(parameters)
            with torch.no_grad():
                for n, p in self.masters[name].items():
                    p.copy_(flat[f"weight.{n}"])
            self._publish(name)
            for optimizer, held in self.optimizers[name]:
                self._restore(optimizer, held, flat)
            with safe_open(path, "pt") as file:
                counts = json.loads(file.metadata()["counts"])
            for average, count in counts.items():
                self.averages[average].values = {n: flat[f"ema.{average}.{n}"] for n in names}
                self.averages[average].count = count
                if average != name:
                    self._lead(average)

    def _restore(self, optimizer: torch.optim.Optimizer, names: list[str], flat: Mapping[str, Tensor]) -> None:
        """An optimizer's state from a checkpoint's `optim.FIELD.NAME`."""
        index, state = {n: i for i, n in enumerate(names)}, dict[int, dict[str, Tensor]]()
        for key, value in flat.items():
            kind, _, rest = key.partition(".")
            field, _, n = rest.partition(".")
            if kind == "optim" and n in index:
                # torch keeps the step count off the accelerator
                state.setdefault(index[n], {})[field] = value.cpu() if field == "step" else value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def export(self, role: str, averaged: bool = True) -> dict[str, Tensor]:
        """Full state dict of the role's module, `averaged` where it keeps an average."""
        state = {n: v.detach().clone() for n, v in self.modules[role].state_dict().items()}
        if averaged and role in self.averages:
            state |= {n: v.to(state[n].dtype) for n, v in self.averages[role].values.items()}
        return state

    def barrier(self) -> None: ...

    def any(self, flag: bool) -> bool:
        return flag

    def total(self, count: int) -> int:
        return count

    def close(self) -> None:
        self.optimizers.clear()
