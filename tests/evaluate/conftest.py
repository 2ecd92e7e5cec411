"""Fixtures of this room's tests."""

from __future__ import annotations

import pytest

from flc.evaluate.clips import Clips

from .spoil import change_clips, draw_clips, softened


@pytest.fixture(scope="session")
def reference() -> Clips:
    return draw_clips(288, seed=77)  # every caption twice: diversity compares clips of one caption


@pytest.fixture(scope="session")
def drawn() -> Clips:
    return draw_clips(48, seed=1)


@pytest.fixture(scope="session")
def soft(drawn) -> Clips:
    """As a good autoencoder leaves clips: half a pixel of blur, 1 % of noise."""
    return change_clips(drawn, softened(0.5, 0.01))
