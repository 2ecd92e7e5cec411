"""What leaves a device, or comes to it, for a while."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flc.models.wan import WanAdapter
from flc.run.job import Job


class Moved:
    """A module that notes where it goes."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def to(self, place: str) -> None:
        self.places.append(place)


def test_an_encoder_leaves_the_device_when_its_work_fails():
    adapter, encoder = WanAdapter(), Moved()
    adapter.pipe, adapter.device = SimpleNamespace(text_encoder=encoder), "cuda"
    with pytest.raises(RuntimeError, match="out of memory"), adapter.at_work("text_encoder"):
        raise RuntimeError("out of memory")
    assert encoder.places == ["cuda", "cpu"]


def test_the_parked_network_comes_back_when_a_training_fails():
    network = Moved()
    job = SimpleNamespace(adapter=SimpleNamespace(transformer=network, device="cuda"))
    with pytest.raises(RuntimeError, match="out of memory"), Job.parked(job, idle=True):
        raise RuntimeError("out of memory")
    assert network.places == ["cpu", "cuda"]
