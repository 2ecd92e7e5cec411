"""LPIPS between the clips of two rows made of the same noise, prompts and first frames. Lower is more alike.

Zhang et al. 2018 (arXiv:1801.03924), by the authors' package `lpips`: distance of normalised features of a network
trained on ImageNet, weighted per channel by fits to human judgments, mean over pixels, frames and clips. The package
holds the fits; the network is torchvision's, whose weights the package would download. Here they come from a folder.

A random network is measured with only when asked for by that name, and everything printed says so: its distances order
large changes rightly, are on another scale, and compare with no number of a paper. The fits are for trained channels
and are left out then.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flc.errors import UserError

RANDOM = "random"
#: Names of torchvision's weight files, and what `lpips` calls the network; the first found is used.
NETWORKS = {"alexnet*.pth": "alex", "vgg16*.pth": "vgg", "squeezenet1_1*.pth": "squeeze"}
#: The rows that are compared: what the student was made from, and the student.
ROWS = ("teacher-many", "student")
FRAMES = 16  # at once
SMALLEST = 32  # pixels of a side: of fewer, its poolings leave nothing


@dataclass(frozen=True)
class Lpips:
    """`label` is the name under which a distance may be printed."""

    net: Any
    backbone: str

    @property
    def label(self) -> str:
        return f"LPIPS to {ROWS[0]} ({self.backbone}, lower is better)"


def weights_in(folder: Path) -> tuple[Path, str]:
    """The network's weights in a folder, and its name; `UserError` when there are none."""
    for pattern, name in NETWORKS.items():
        found = sorted(folder.glob(pattern))
        if found:
            return found[0], name
    raise UserError(
        f"evaluate.lpips={folder} holds no {' or '.join(NETWORKS)}: put torchvision's weights there, or say random"
    )


def check(option: str) -> None:
    """What can be refused before anything runs."""
    try:
        import lpips  # noqa: F401
    except ImportError as error:
        raise UserError("evaluate.lpips needs the package lpips: pip install lpips torchvision") from error
    if option != RANDOM:
        load(option, torch.device("cpu"))  # weights that do not fit are told of before the clips are sampled


def load(option: str, device: torch.device) -> Lpips:
    """The metric with weights of a folder, or with random ones (always the same) for `random`. Downloads nothing."""
    import lpips

    path, name = (None, "alex") if option == RANDOM else weights_in(Path(option))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips calls torchvision in a way that is deprecated
        torch.manual_seed(0)
        fits = path is not None
        net = lpips.LPIPS(net=name, pnet_rand=True, pretrained=fits, lpips=fits, verbose=False)
    if path is None:
        return Lpips(net.to(device), "random backbone")
    try:
        weights = dict(torch.load(path, map_location="cpu", weights_only=True))
        # lpips cuts torchvision's `features` into slices and keeps the numbers: slice2.3.weight is features.3.weight
        net.net.load_state_dict({k: weights["features." + k.split(".", 1)[1]] for k in net.net.state_dict()})
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} does not hold torchvision's weights of {name}: {error!s:.120}") from error
    return Lpips(net.to(device), name)


@torch.no_grad()
def distance(metric: Lpips, a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the frames of two clips (F, H, W, 3) in [0, 1]."""
    device = next(metric.net.parameters()).device
    x, y = (torch.from_numpy(np.ascontiguousarray(v)).permute(0, 3, 1, 2).to(device) for v in (a, b))
    parts = [metric.net(p, q, normalize=True).flatten() for p, q in zip(x.split(FRAMES), y.split(FRAMES), strict=True)]
    return float(torch.cat(parts).mean())


def pair(metric: Lpips, clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The entry of metrics.json."""
    values = [distance(metric, a, b) for a, b in clips]
    return {
        "metric": "lpips",
        "rows": list(ROWS),
        "label": metric.label,
        "backbone": metric.backbone,
        "value": float(np.mean(values)),
        "clips": len(values),
        "higher_is_better": False,
    }
