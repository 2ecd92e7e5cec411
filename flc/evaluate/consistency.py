"""Whether the object keeps its outline: a drawn shape is rigid, and moves without turning."""

from __future__ import annotations

import numpy as np

from flc.api import Metric, Score
from flc.evaluate.clips import Clips, check_same_size, remembered
from flc.evaluate.closeness import closeness
from flc.evaluate.recognise import outlines, shape_correlations


class SubjectConsistency(Metric):
    """Closeness of how far outlines stray to the drawn clips', in which nothing but pixels changes them. The worse of
    two.

    From the clip's own mean outline, for what wobbles, melts, shrinks or becomes another shape; and from the shape that
    the clip shows best, for an object that keeps a shape which is none (whether it is the caption's is not asked here).
    Where the object is, its colour and what is behind it do not matter. VBench's dimension of this name compares
    frames by a network's features; here they are known to the pixel.
    """

    name = "subject_consistency"
    summary = "the object's outline stays that of one shape, as in the drawn clips"
    #: In `wobble` and `misfit`: an outline whose radius varies by a twentieth from frame to frame (half a pixel of a
    #: drawn object at 48 x 48) scores .61 on its account, one that varies by a tenth .1.
    SCALE = 0.07

    def score(self, clips: Clips, reference: Clips) -> Score:
        check_same_size(clips, reference)
        steady, true = (closeness(of(clips), of(reference), above=self.SCALE) for of in (wobble, misfit))
        worst = np.minimum(steady, true)
        note = f"steady {steady.mean():.3f}, of one of the shapes {true.mean():.3f}"
        return Score(float(worst.mean()), worst, note)


@remembered
def wobble(clips: Clips) -> np.ndarray:
    """(N,) root of 1 - the mean correlation of a frame's outline with the clip's mean one, all at the clip's size.

    .03 of drawn clips, whose edges meet the pixels differently in each frame; .13 and .22 where the radius varies by
    .05 and .1 of itself. 1 without an object.
    """
    seen = outlines(clips, steady_size=True)
    mean = seen.mean(1)
    mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)
    return _stray(np.einsum("nlp,np->n", seen, mean) / seen.shape[1])


@remembered
def misfit(clips: Clips) -> np.ndarray:
    """(N,) the same of the template that fits best, with the frames' own size: .07 of drawn clips."""
    return _stray(shape_correlations(clips).max(1))


def _stray(correlation: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(1 - correlation, 0, 1))
