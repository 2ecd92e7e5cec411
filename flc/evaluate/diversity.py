"""Diversity across seeds: whether the clips of one caption differ from each other as much as drawn ones do."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import pdist

from flc.api import Metric, Score
from flc.evaluate.clips import Clips, check_same_size
from flc.evaluate.measurements import LUMINANCE, displacement

#: What a caption leaves open.
FEATURES = ("start x", "start y", "size", "path", "background")
#: A reference in which one of them is constant counts as if its clips were this far apart: a pixel of 256 or a grey
#: level.
LEAST = 1 / 256


class Diversity(Metric):
    """How near the spread across seeds of one caption is to that of drawn clips: less loses, and so does more.

    In what a caption leaves open: where the object starts, its size, how far it moves, how bright the background is.
    Not in pixels, where noise would pass for variety. Of each, the mean distance between two clips of a caption over
    that of drawn clips, r, scores min(r, 1/r), less what chance makes of it; the mean of the five. Each by itself: in
    one distance over all of them a size that runs wild makes up for a background that is always the same. 0 when all
    seeds give the same clip, .5 where all spread half or twice as much as they should. Clips made from a first frame
    are left out, because the image fixes all this but the distance.
    """

    name = "diversity"
    summary = "spread of position, size, path and background across seeds of a caption, as in drawn clips, not more"
    #: With fewer pairs of drawn clips than this for the same captions, pairs of all captions are taken
    #: (what a caption leaves open hardly depends on it): the mean of 32 distances is right to 14 %.
    PAIRS = 32

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        ours, drawn = _groups(clips), _groups(reference)
        if not ours:
            return Score(math.nan, None, "no caption has two clips made from text alone")
        if not drawn:
            return Score(math.nan, None, "no caption has two reference clips")
        same = {caption: drawn[caption] for caption in ours if caption in drawn}
        if sum(math.comb(len(group), 2) for group in same.values()) >= self.PAIRS:
            drawn = same
        spread, normal = _distances(ours), _distances(drawn)
        least = np.maximum(normal.mean(0), LEAST)
        ratio = spread.mean(0) / least
        # Of two means of as many captions as there are, if both were drawn alike: the mean of |N(0, s)| is .8 s.
        error = normal.std(0) / least * math.sqrt(1 / len(ours) + 1 / len(drawn))
        off = abs(np.log(np.maximum(ratio, 1e-6))) - math.sqrt(2 / math.pi) * error
        value = np.exp(-np.maximum(off, 0)).mean()
        named = ", ".join(f"{name} {r:.2f}" for name, r in zip(FEATURES, ratio, strict=True))
        return Score(float(value), None, f"spread over the drawn clips': {named}; {len(ours)} captions")


def _distances(groups: dict[str, np.ndarray]) -> np.ndarray:
    """(captions, features) mean distance between two clips of one caption."""
    return np.array([[pdist(column[:, None]).mean() for column in group.T] for group in groups.values()])


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
