"""Memory of a run, counted for one rank and by role: weights, gradients, Adam's moments, masters, averages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from flc.api import Budget, Channels, Kept, Objective, Role, View
from flc.run.derived import iterations_before
from flc.run.job import Job
from flc.run.objectives import beside
from flc.train.nets import is_unpruned, lora_layers


@dataclass(frozen=True)
class Sharing:
    """Among how many ranks each part of a role lies, by ZeRO stage: optimizer from 1, gradients from 2, weights and
    averages from 3; 0 is the plain engine."""

    zero: int = 0
    world: int = 1
    offload: bool = False

    def ranks(self, stage: int) -> int:
        return self.world if self.zero >= stage else 1


def bytes_of_role(parameters: int, trained: int, role: Role, width: int, sharing: Sharing) -> int:
    """A copy's weights, or a head's; for a trained role gradients, two float32 moments, float32 masters where the
    weights are not (deepspeed keeps them always), and a float32 average where it keeps one or is one."""
    total = parameters * width // sharing.ranks(3) if role.train in ("full", "follow", "head") else 0
    if role.optim:
        masters = 4 if width < 4 or sharing.zero else 0
        held = 0 if sharing.offload else 8 + masters
        total += trained * width // sharing.ranks(2) + trained * held // sharing.ranks(1)
    return total + (trained * 4 // sharing.ranks(3) if role.ema else 0)


def lora_parameters(job: Job, role: Role) -> int:
    """Of an adapter on every block (a view's skipped blocks hold one, too): rank (in + out) for each layer."""
    layers = lora_layers(job.adapter, job.adapter.transformer)
    return sum(role.rank * (layer.in_features + layer.out_features) for _, layer in layers)


def head_parameters(job: Job, role: Role) -> int:
    assert role.head is not None
    with torch.device("meta"):
        return sum(p.numel() for p in role.head(job.adapter.width(job.adapter.transformer)).parameters())


def kept_parameters(weights: Mapping[str, tuple[int, ...]], view: View) -> int:
    return sum(sum(w[i] for i in (view.kept or {}).get(s, range(len(w)))) for s, w in weights.items())


def narrower(budget: Budget, channels: Channels | None) -> Mapping[str, tuple[int, ...]]:
    """Parameters of each block with these channels."""
    if channels is None:
        return budget.weights
    gone = {s: (n - len(channels[s][0])) * each for s, (n, each) in budget.ffn.items()}
    return {s: tuple(w - gone[s] for w in blocks) for s, blocks in budget.weights.items()}


def frozen_networks(
    roles: Collection[Role], full: Kept, counts: tuple[int, int], apart: bool, taught: bool
) -> list[tuple[int, bool]]:
    """Parameters of the networks that a stage holds beside its trained copies, and whether ZeRO-3 shards them: those
    that a role or the teacher evaluates, unless gradients pass through them. `counts`: of the original, which is there
    where it is `apart`, and of the incoming weights."""

    def sharded(held: list[Role]) -> bool:
        return bool(taught or held) and not any(role.passes for role in held)

    held = [role for role in roles if role.train in ("frozen", "lora")]
    if not apart:
        return [(counts[1], sharded(held))]
    unpruned = [role for role in held if is_unpruned(role, full)]
    return [(counts[0], sharded(unpruned)), (counts[1], sharded([role for role in held if role not in unpruned]))]


def bytes_of_stage(job: Job, objective: Objective, channels: Channels | None, taught: bool) -> int:
    """On one rank: frozen networks, and every role's own. (A GPU holds nothing else: in stage III, which is `taught`,
    the model's own transformer is parked unless it is evaluated.)"""
    zero = job.zero if job.recipe.engine == "deepspeed" else 0
    sharing = Sharing(zero, job.ranks.world, job.recipe.offload)
    weights, width = narrower(job.budget, channels), job.adapter.dtype.itemsize
    whole = sum(p.numel() for p in job.adapter.transformer.parameters())
    rest = whole - kept_parameters(job.budget.weights, View())
    counts = (whole, rest + kept_parameters(weights, View()))
    roles, narrowed = objective.roles(), channels is not None
    # some of stage II's iterations before the blocks were chosen leave other weights than the original's, too
    apart = beside(job, roles, narrowed) if taught else narrowed or iterations_before(job) > 0
    networks = frozen_networks(list(roles.values()), job.prunable.full, counts, apart, taught)
    memory = sum(width * count // (sharing.ranks(3) if sharded else 1) for count, sharded in networks)
    for role in roles.values():
        if role.train == "head":
            count = head_parameters(job, role)
            memory += bytes_of_role(count, count, role, 4, sharing)
            continue
        count = rest + kept_parameters(weights, roles[role.of].view if role.of else role.view)
        trained = lora_parameters(job, role) if role.train == "lora" else count
        memory += bytes_of_role(count, trained, role, width, sharing)
    return memory


def bytes_of_encoders(job: Job) -> int:
    """The components that are not compressed, as they lie in the model's folder."""
    files = job.model_folder.rglob("*.safetensors")
    return sum(f.stat().st_size for f in files if f.parent.name != "transformer")
