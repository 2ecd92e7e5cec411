"""Fixtures of this room's tests."""

from __future__ import annotations

import pytest

from flc.evaluate.clips import Clips

from .spoil import blurred, change_clips, draw_clips, noisy


@pytest.fixture(scope="session")
def reference() -> Clips:
    return draw_clips(144, seed=77)


@pytest.fixture(scope="session")
def drawn() -> Clips:
    return draw_clips(48, seed=1)


@pytest.fixture(scope="session")
def soft(drawn) -> Clips:
    """As a good autoencoder leaves clips: half a pixel of blur, 1 % of noise."""
    return change_clips(drawn, lambda clip: noisy(0.01)(blurred(0.5)(clip)))
