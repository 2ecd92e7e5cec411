"""Narrower feed-forward layers: the channels that stay, in a copy that stock diffusers loads.

Unlike fewer blocks, fewer channels are no view of the same weights: the narrowed network is one of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from flc.api import Channels
from flc.models.view import blocks_of


def ends(ffn: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The linear layers that make and that take a feed-forward layer's channels."""
    layers = [module for module in ffn.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 2 and layers[0].out_features == layers[1].in_features, "channels go from one to the other"
    return layers[0], layers[1]


def channel_size(ffn: nn.Module) -> tuple[int, int]:
    """How many channels a feed-forward layer has, and how many parameters each stands for: row, bias, column."""
    makes, takes = ends(ffn)
    return makes.out_features, makes.in_features + (makes.bias is not None) + takes.out_features


@torch.no_grad()
def narrow(ffn: nn.Module, kept: Sequence[int]) -> None:
    """In place: what the other channels added to the output is gone."""
    makes, takes = ends(ffn)
    index = torch.tensor(kept, device=makes.weight.device)
    makes.weight = nn.Parameter(makes.weight[index].clone(), makes.weight.requires_grad)
    if makes.bias is not None:
        makes.bias = nn.Parameter(makes.bias[index].clone(), makes.bias.requires_grad)
    takes.weight = nn.Parameter(takes.weight[:, index].clone(), takes.weight.requires_grad)
    makes.out_features = takes.in_features = len(kept)


def narrowed(adapter: Any, model: nn.Module, channels: Channels | None) -> Any:
    """A copy of `model` with these channels, its config's entries corrected; `model` itself where `channels` is None.

    Stock `from_pretrained` reads what the copy's `save_pretrained` writes with no missing and no unexpected key.
    """
    if channels is None:
        return model
    copied: Any = adapter.prepare(copy.deepcopy(model))
    for stack, blocks in channels.items():
        for block, kept in zip(blocks_of(copied, stack), blocks, strict=True):
            narrow(adapter.feed_forward(block), kept)
        copied.register_to_config(**{adapter.ffn[stack]: len(blocks[0])})
    return copied
