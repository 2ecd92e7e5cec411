"""Distance between the generated and the drawn distribution: sliced Wasserstein over clip features."""

from __future__ import annotations

import numpy as np

from flc.api import Metric, Score
from flc.evaluate.clips import Clips, check_same_size
from flc.evaluate.measurements import (
    acceleration,
    displacement,
    flicker,
    overshoot,
    pixel_acceleration,
    sharpness,
    texture,
)
from flc.evaluate.metrics import MotionSmoothness, Sharpness, TemporalFlicker

#: Thumbnails for the principal components: frames and pixels per side.
LOOKS, THUMB = 5, 8
COMPONENTS = 12
#: Random directions; the mean over them is then right to 3 %.
SLICES = 256
#: Features are cut off at this many reference standard deviations: beyond, a clip is simply wrong, and
#: one wild feature must not hide the others.
WILD = 5.0


class Distribution(Metric):
    """exp(-(d - d0) / scale), d the sliced Wasserstein distance to the reference, d0 what chance makes of it.

    Features: principal components of thumbnails (what is where, when, in which colour) and the scalar
    measurements, each in standard deviations of the reference. d is the mean over random directions
    of the Wasserstein-1 distance of the projections (Rabin et al. 2011; Bonneel et al. 2015). Two finite
    samples of one distribution differ, too: d0 is the distance between random halves of the reference,
    scaled to the two sample sizes, so that a score does not depend on how many clips there are.
    """

    name = "distribution"
    summary = "sliced Wasserstein distance of clip features to the drawn clips', mapped to [0, 1]"
    #: In reference standard deviations, mean over directions: one feature of the 23 off by one standard
    #: deviation makes .17 and scores .71; all of them off by one make .8 and score .2.
    SCALE = 0.5

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        ours, drawn = standardised_features(clips, reference)
        rng = np.random.default_rng(0)  # the same directions and halves for every model
        directions = rng.standard_normal((ours.shape[1], SLICES))
        directions /= np.linalg.norm(directions, axis=0)
        a, b = ours @ directions, drawn @ directions
        distance, chance = wasserstein(a, b), _chance(b, len(a), rng)
        value = np.exp(-max(0.0, distance - chance) / self.SCALE)
        return Score(float(value), None, f"sliced Wasserstein distance {distance:.3f}, by chance {chance:.3f}")


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the columns of the Wasserstein-1 distance between a (n,k) and b (m,k): the area between quantiles."""
    levels = (np.arange(256) + 0.5) / 256
    return float(np.mean(abs(np.quantile(a, levels, axis=0) - np.quantile(b, levels, axis=0))))


def _chance(projected: np.ndarray, n: int, rng: np.random.Generator, repeats: int = 4) -> float:
    """Expected distance between n clips and the reference if both were drawn alike, from the reference's halves.

    Distances between samples of n and m go as sqrt(1/n + 1/m).
    """
    m = len(projected)
    if m < 8:  # no halves to speak of
        return 0.0
    half = m // 2
    orders = [rng.permutation(m) for _ in range(repeats)]
    between = np.mean([wasserstein(projected[o[:half]], projected[o[half : 2 * half]]) for o in orders])
    return float(between * np.sqrt((1 / n + 1 / m) / (2 / half)))


def standardised_features(clips: Clips, reference: Clips) -> tuple[np.ndarray, np.ndarray]:
    """(N,D) and (M,D) features, in standard deviations of the reference around its mean, cut off at `WILD`."""
    thumbs, drawn_thumbs = _thumbnails(clips), _thumbnails(reference)
    mean = drawn_thumbs.mean(0)
    _, _, axes = np.linalg.svd(drawn_thumbs - mean, full_matrices=False)
    axes = axes[:COMPONENTS].T
    (scalars, least), (drawn_scalars, _) = _scalars(clips), _scalars(reference)
    ours = np.hstack([(thumbs - mean) @ axes, scalars])
    drawn = np.hstack([(drawn_thumbs - mean) @ axes, drawn_scalars])
    least = np.concatenate([np.full(axes.shape[1], 0.01), least])  # in a component: a grey level or two
    spread = np.maximum(drawn.std(0), least)
    ours, drawn = (np.clip((f - drawn.mean(0)) / spread, -WILD, WILD) for f in (ours, drawn))
    return ours, drawn


def _scalars(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """(N,11) measurements and the least spread of each.

    Some hardly vary among drawn clips, and a harmless difference would be many of their standard
    deviations. The least spread is the metrics' own scale where there is one, else 1 % of the frame or 5 %.
    """
    found = clips.foreground
    path = displacement(clips)
    columns = [
        (path[:, 0], 0.01),
        (path[:, 1], 0.01),
        (np.sqrt(found.area.mean(1)), 0.01),
        (found.scatter.mean(1), 0.05),
        (np.log(found.contrast), 0.05),
        (np.log(sharpness(clips) + 1e-2), Sharpness.SOFT),
        (overshoot(clips), Sharpness.HALO),
        (np.log(texture(clips) + Sharpness.PLAIN), Sharpness.DETAIL),
        (flicker(clips), TemporalFlicker.SCALE),
        (acceleration(clips), 0.01),
        (np.log(pixel_acceleration(clips) + 1e-2), MotionSmoothness.PIXELS),
    ]
    return np.column_stack([c for c, _ in columns]), np.array([least for _, least in columns])


def _thumbnails(clips: Clips) -> np.ndarray:
    """(N, LOOKS * THUMB² * 3): block means of some frames; block borders rounded to pixels, so any size works."""
    _, frames, height, width, _ = clips.video.shape
    picked = clips.video[:, np.linspace(0, frames - 1, LOOKS).round().astype(int)]
    for axis, size in ((2, height), (3, width)):
        edges = np.linspace(0, size, THUMB + 1).round().astype(int)
        sums = np.add.reduceat(picked, edges[:-1], axis=axis)
        picked = sums / np.diff(edges).reshape([-1 if i == axis else 1 for i in range(5)])
    return picked.reshape(len(clips), -1)
