"""The metrics that score each clip by itself, and the average that tables report.

All are in [0, 1], higher is better, and a score's value is the mean of its per-clip scores. Subject consistency, too,
scores each clip; diversity and distribution judge the clips together. Each of these three has a file of its own.

The average is the mean of the six metrics of `AVERAGE`, so every clip has one, and `intervals.py` compares rows clip by
clip. First-frame fidelity is not in it: over 45 settings of three seeds each it does not vary at all, because it
measures the autoencoder, while sharpness (F = 27 between settings) and motion smoothness (13) tell them apart, caption
accuracy (7), flicker (3.4) and dynamic degree (2.4) less. Subject consistency took its place: what separates few-step
students from their teacher to the eye, shapes that wobble, none of the others sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from flc.api import Metric, Score
from flc.data.shapes import parse_caption
from flc.errors import UserError
from flc.evaluate.clips import Clips, check_same_size
from flc.evaluate.closeness import closeness
from flc.evaluate.measurements import (
    acceleration,
    displacement,
    flicker,
    overshoot,
    pixel_acceleration,
    sharpness,
    speed,
    texture,
)
from flc.evaluate.recognise import recognise

#: The metrics whose mean is reported as the average; caption accuracy where captions are of the drawn kind.
AVERAGE = (
    "caption_accuracy",
    "dynamic_degree",
    "motion_smoothness",
    "temporal_flicker",
    "sharpness",
    "subject_consistency",
)


def average(scores: Mapping[str, Score]) -> float:
    """Mean value of the metrics in `AVERAGE`, by name; without caption accuracy where captions are of another kind than
    the drawn ones.

    Any other metric of the list that is missing or nan is an error: an average over fewer metrics
    would be compared with one over all.
    """
    values = {name: scores[name].value for name in AVERAGE if name in scores}
    optional = {"caption_accuracy"} & values.keys()
    missing = [n for n in AVERAGE if n not in optional and math.isnan(values.get(n, math.nan))]
    if missing:
        raise UserError(f"no average without {', '.join(missing)}; score these metrics, too")
    return float(np.mean([value for value in values.values() if not math.isnan(value)]))


class CaptionAccuracy(Metric):
    """Share of clips in which shape, colour and motion are all what the caption says. Captions that do not name them
    cannot be checked: nan."""

    name = "caption_accuracy"
    summary = "share of clips that show the caption's shape, colour and motion"

    def score(self, clips: Clips, reference: Clips) -> Score:
        if not drawn_kind(clips.captions):
            return Score(math.nan, None, "captions do not name a shape, a colour and a motion")
        right = caption_words_right(clips)
        shape, colour, motion = right.mean(0)
        note = f"shape {shape:.3f}, colour {colour:.3f}, motion {motion:.3f}"
        return _mean(right.all(1).astype(float), note)


def drawn_kind(captions: Iterable[str]) -> bool:
    """Whether all are captions of drawn clips."""
    try:
        return bool([parse_caption(caption) for caption in captions])
    except ValueError:
        return False


def caption_words_right(clips: Clips) -> np.ndarray:
    """(N,3) bool: whether the clip's shape, colour and motion are those of its caption."""
    wanted = [parse_caption(text) for text in clips.captions]
    shown = [(r.shape, r.colour, r.motion) for r in recognise(clips)]
    return np.array([[w == s for w, s in zip(*pair, strict=True)] for pair in zip(wanted, shown, strict=True)])


def word_accuracies(clips: Clips) -> dict[str, float]:
    """The three separate accuracies, for tables; each in [0, 1]. None of captions of another kind."""
    if not drawn_kind(clips.captions):
        return {}
    return dict(zip(("shape", "colour", "motion"), caption_words_right(clips).mean(0).tolist(), strict=True))


class DynamicDegree(Metric):
    """Closeness of the net displacement to the drawn clips' own: too little and too much both lose.

    The net displacement is that of a fitted line, so that jitter is not motion.
    """

    name = "dynamic_degree"
    summary = "as much net motion as in the drawn clips; a still clip scores 0"
    #: Displacements are compared as ratios. Added to both, so that no motion at all has a logarithm:
    #: a hundredth of the frame, which nobody sees.
    STILL = 0.01
    #: In log displacement: three fifths of the slowest drawn motion, or 1.65 times the fastest, score
    #: .61; a third of the slowest scores .1.
    SCALE = 0.5

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        values, drawn = (np.log(np.linalg.norm(displacement(c), axis=1) + self.STILL) for c in (clips, reference))
        return _mean(closeness(values, drawn, below=self.SCALE, above=self.SCALE))


class MotionSmoothness(Metric):
    """Closeness of second differences in time to the drawn clips', which move evenly. The worse of two.

    Of the centroid, for jerks of the object, and of the pixels, for things that come and go. Only too
    much counts: a still clip is smooth (VBench has it so, too), and dynamic degree catches it.
    """

    name = "motion_smoothness"
    summary = "no more acceleration, of object and pixels, than in the drawn clips"
    #: In units of the drawn clips' median distance per frame: a velocity that changes by half of itself
    #: from each frame to the next scores .61, one that is as large as the motion itself .14.
    CENTROID = 0.5
    #: In log root-mean-square: half as much again as nearly all drawn clips scores .61; clips in a
    #: random order have three times as much.
    PIXELS = 0.4

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        pace = max(float(np.median(speed(reference))), 1e-4)  # a reference that stands still must not divide by 0
        centroid = closeness(acceleration(clips) / pace, acceleration(reference) / pace, above=self.CENTROID)
        pixels, drawn = (np.log(pixel_acceleration(c) + 1e-6) for c in (clips, reference))
        return _mean(np.minimum(centroid, closeness(pixels, drawn, above=self.PIXELS)))


class TemporalFlicker(Metric):
    """Closeness of the brightness change that motion does not explain to the drawn clips' (hardly any)."""

    name = "temporal_flicker"
    summary = "no more frame-to-frame brightness change in still background and object than in the drawn clips"
    #: Luminance per frame: 5 of 255 levels, about where flicker of a plain area becomes obvious. Noise
    #: of 1 % makes .008.
    SCALE = 0.02

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        return _mean(closeness(flicker(clips), flicker(reference), above=self.SCALE))


class Sharpness(Metric):
    """Closeness of edges and texture to the drawn clips': blur and over-sharpening both lose. The worst of three.

    Blur shows in the edges' steepness. Over-sharpening shows less there, since a clean edge is already
    as steep as pixels allow, but it leaves halos, and those are measured. Fine detail that was never made
    shows in neither: it is missing from the background's texture.
    """

    name = "sharpness"
    summary = "edges as steep as in the drawn clips, without halos; background as textured"
    #: In log steepness: edges 1.65 times as wide as nearly all drawn ones score .61; the softness of a
    #: good autoencoder (half a pixel, 1.2 times) is to lose little, 2 pixels (3.8 times) nearly all.
    SOFT = 0.5
    #: Steeper than drawn is suspicious sooner, since a drawn edge is one pixel wide: 1.3 times scores .61.
    STEEP = 0.25
    #: In units of the contrast: halos of 5 % score .61. Unsharp masking (1 pixel, amount 1) makes 10 %.
    HALO = 0.05
    #: In log contrast of the background: two thirds of nearly all drawn ones, or half as much again, score .61, a
    #: third of it .03.
    DETAIL = 0.4
    #: Added to the contrast, so that none at all has a logarithm: a level of 255.
    PLAIN = 0.004

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        steep, drawn = (np.log(sharpness(c) + 1e-3) for c in (clips, reference))
        edges = closeness(steep, drawn, below=self.SOFT, above=self.STEEP)
        halos = closeness(overshoot(clips), overshoot(reference), above=self.HALO)
        textures, drawn = (np.log(texture(c) + self.PLAIN) for c in (clips, reference))
        detail = closeness(textures, drawn, below=self.DETAIL, above=self.DETAIL)
        worst = np.minimum(np.minimum(edges, halos), detail)
        note = f"edges {edges.mean():.3f}, halos {halos.mean():.3f}, texture {detail.mean():.3f}"
        return _mean(worst, note)


class FirstFrameFidelity(Metric):
    """Image-to-video only: 1 - rms(frame 0 - given image) / rms of an unrelated image, at least 0.

    'Unrelated' is, for each given image, the distance that only a tenth of the reference's first
    frames stay under: with the mean instead, half of all unrelated frames would score above 0.
    """

    name = "first_frame_fidelity"
    summary = "image-to-video clips: how well frame 0 is the given image; an unrelated frame scores 0"
    UNRELATED = 10.0

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        if clips.first_frames is None or not clips.given.any():
            return Score(math.nan, None, "no clip was given a first frame")
        given = clips.first_frames[clips.given].reshape(int(clips.given.sum()), -1)
        shown = clips.video[clips.given, 0].reshape(given.shape)
        others = reference.video[:, 0].reshape(len(reference), -1)
        error = np.sqrt(np.square(shown - given).mean(1))
        # |a - b|² = |a|² - 2ab + |b|²: all pairs at once
        squared = (given**2).sum(1)[:, None] - 2 * given @ others.T + (others**2).sum(1)
        unrelated = np.percentile(np.sqrt(np.maximum(squared, 0) / given.shape[1]), self.UNRELATED, axis=1)
        scores = np.clip(1 - error / np.maximum(unrelated, 1e-3), 0, 1)
        per_clip = np.full(len(clips), math.nan)
        per_clip[clips.given] = scores
        return Score(float(scores.mean()), per_clip, f"{len(scores)} of {len(clips)} clips were given a first frame")


def _mean(per_clip: np.ndarray, note: str = "") -> Score:
    return Score(float(per_clip.mean()), per_clip, note)
