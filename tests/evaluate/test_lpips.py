"""LPIPS from local weights, or from a random network that says so; nothing is downloaded."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch

from flc.errors import UserError
from flc.evaluate import lpips

from .spoil import blurred, draw_clips, noisy

pytest.importorskip("lpips")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("something is being downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return draw_clips(1, 0, frames=5, height=48, width=48).video[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a file as torchvision would have downloaded it, of other values."""
    from torchvision.models import alexnet

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    torch.save(alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    return folder


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def untrained() -> lpips.Lpips:
    return lpips.load("random", CPU)


def test_identical_clips_are_at_distance_zero(untrained, clip):
    assert lpips.distance(untrained, clip, clip.copy()) == 0


def test_more_change_is_more_distance(untrained, clip):
    changed = [np.clip(f(clip), 0, 1).astype(np.float32) for f in (blurred(0.5), blurred(2), noisy(0.5))]
    distances = [lpips.distance(untrained, clip, c) for c in changed]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert lpips.distance(untrained, changed[1], clip) == pytest.approx(distances[1]), "either way round"


def test_a_random_network_is_always_the_same_and_always_named(untrained, clip):
    before = torch.random.get_rng_state()
    again = lpips.load("random", CPU)
    assert torch.equal(torch.random.get_rng_state(), before), "the run's own draws stay what they were"
    assert lpips.distance(again, clip, clip[::-1]) == lpips.distance(untrained, clip, clip[::-1]) > 0
    entry = lpips.pair(untrained, [(clip, clip), (clip, clip[::-1])])
    assert entry["label"] == "LPIPS to teacher-many (random backbone, lower is better)"
    assert entry["backbone"] == "random backbone" and entry["higher_is_better"] is False and entry["clips"] == 2
    assert entry["value"] == pytest.approx(lpips.distance(untrained, clip, clip[::-1]) / 2)


def test_local_weights_are_the_ones_used(weights, clip):
    metric = lpips.load(str(weights), CPU)
    assert metric.label == "LPIPS to teacher-many (alex, lower is better)"
    saved = torch.load(weights / "alexnet-owt-7be5be79.pth", weights_only=True)
    held = metric.net.net.state_dict()
    assert torch.equal(held["slice3.6.weight"], saved["features.6.weight"]) and len(held) == 10
    assert lpips.distance(metric, clip, clip) == 0 < lpips.distance(metric, clip, clip[::-1])
    fits = {k: v for k, v in metric.net.state_dict().items() if k.startswith("lin")}
    assert all(v.min() >= 0 for v in fits.values()), "the package's fits, which are not negative"


def test_folders_without_usable_weights(tmp_path):
    for option in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"holds no alexnet.*or say random"):
            lpips.check(str(option))
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg16-397923af.pth")
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth does not hold torchvision's weights of vgg"):
        lpips.check(str(tmp_path))
    torch.save(torch.zeros(3), tmp_path / "vgg16-397923af.pth")
    with pytest.raises(UserError, match="does not hold"):
        lpips.check(str(tmp_path))
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="does not hold"):
        lpips.check(str(tmp_path))


def test_the_smallest_clips_have_a_distance_and_smaller_ones_have_none(untrained):
    rng = np.random.default_rng(0)
    clip = rng.random((2, lpips.SMALLEST, lpips.SMALLEST, 3)).astype(np.float32)
    assert lpips.distance(untrained, clip, clip[::-1]) > 0
    with pytest.raises(RuntimeError, match="too small"):  # why `Job.check` refuses them
        lpips.distance(untrained, clip[:, :16, :16], clip[::-1, :16, :16])
