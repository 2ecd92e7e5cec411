"""How close a clip's measurement is to those of the reference clips: the mapping most metrics share."""

from __future__ import annotations

import numpy as np

#: The reference's central range, in per cent; inside it a measurement is as good as any drawn clip's.
CENTRAL = (5.0, 95.0)


def closeness(
    values: np.ndarray, reference: np.ndarray, below: float | None = None, above: float | None = None
) -> np.ndarray:
    """exp(-(d/s)²/2) of each value's distance d to the reference's central range: 1 inside, 0 far away.

    `below` and `above` are the scales s of the two sides: a distance of s scores .61, of 2s .14, of 3s
    .01; None: that side does not matter. They are fixed numbers with a meaning, not spreads of the
    reference, because drawn clips hardly vary in some measurements (a drawn background does not flicker
    at all) and a harmless difference would then score 0. The bell is flat at its top, so the tenth of
    honest clips that lies just outside the central range loses next to nothing.
    """
    low, high = np.percentile(reference, CENTRAL)
    score = np.ones(len(values))
    if below is not None:
        score *= _bell(np.maximum(low - values, 0) / below)
    if above is not None:
        score *= _bell(np.maximum(values - high, 0) / above)
    return score


def _bell(distance: np.ndarray) -> np.ndarray:
    return np.exp(-(distance**2) / 2)
