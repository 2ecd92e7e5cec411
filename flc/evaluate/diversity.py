"""Diversity across seeds: how much the clips of one caption differ from each other."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import pdist

from flc.api import Metric, Score
from flc.evaluate.clips import Clips, check_same_size
from flc.evaluate.measurements import LUMINANCE, displacement


class Diversity(Metric):
    """Mean pairwise distance of clips of one caption, over that of drawn clips; at most 1.

    In what a caption leaves open: where the object starts, its size, how far it moves, how bright the
    background is, each in units of its spread among drawn clips of one caption. Not in pixels, where
    noise would pass for variety. 0 when all seeds give the same clip. Clips made from a first frame are
    left out, because the image fixes all this but the distance.
    """

    name = "diversity"
    summary = "spread of position, size, path and background across seeds of a caption, against drawn clips"
    #: With fewer pairs of drawn clips than this for the same captions, pairs of all captions are taken
    #: (what a caption leaves open hardly depends on it): the mean of 32 distances is right to 5 %.
    PAIRS = 32

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        ours, drawn = _groups(clips), _groups(reference)
        if not ours:
            return Score(math.nan, None, "no caption has two clips made from text alone")
        if not drawn:
            return Score(math.nan, None, "no caption has two reference clips")
        # One spread per feature, pooled over captions; at least a pixel or a grey level, so that a
        # feature in which the reference is constant is not blown up.
        variance = np.mean([group.var(0, ddof=1) for group in drawn.values()], axis=0)
        spread = np.sqrt(np.maximum(variance, 1 / 256**2))
        same = {caption: drawn[caption] for caption in ours if caption in drawn}
        if sum(math.comb(len(group), 2) for group in same.values()) >= self.PAIRS:
            drawn = same
        distance, normal = (float(np.mean([pdist(g / spread).mean() for g in d.values()])) for d in (ours, drawn))
        note = f"distance {distance:.3f}, drawn {normal:.3f}, {len(ours)} captions"
        return Score(min(1.0, distance / max(normal, 1e-6)), None, note)


def _groups(clips: Clips) -> dict[str, np.ndarray]:
    """(clips, features) of each caption that has at least two clips made from text alone."""
    found = clips.foreground
    path = displacement(clips)
    features = np.column_stack(
        [
            found.centroid.mean(1) - path / 2,  # where the object starts, from all frames
            np.sqrt(found.area.mean(1)),
            np.linalg.norm(path, axis=1),
            found.background.mean(1) @ LUMINANCE,
        ]
    )
    captions = np.array(clips.captions)
    groups = {c: features[(captions == c) & ~clips.given] for c in sorted(set(clips.captions))}
    return {caption: group for caption, group in groups.items() if len(group) >= 2}
