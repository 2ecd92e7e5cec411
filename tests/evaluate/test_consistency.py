"""Subject consistency sees an outline that changes, and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flc.evaluate.clips import Clips
from flc.evaluate.consistency import SubjectConsistency, misfit, wobble
from flc.evaluate.measurements import speed
from flc.evaluate.metrics import MotionSmoothness

from .spoil import (
    blurred,
    brightening,
    change_clips,
    draw_clips,
    faded,
    flattened,
    jittered,
    pumped,
    pure_noise,
    recoloured,
    reshaped,
    sharpened,
    shrinking,
    shuffled,
    softened,
    still,
    stretched,
    switched,
    wobbling,
)


def value(clips: Clips, reference: Clips) -> float:
    return SubjectConsistency().score(clips, reference).value


def changed_in(change, drawn: Clips, reference: Clips) -> tuple[float, float]:
    """Of the two parts in the note: steady, of one of the shapes."""
    note = SubjectConsistency().score(change_clips(drawn, change), reference).note
    return tuple(map(float, re.findall(r"[.\d]+", note)))


@pytest.fixture(scope="module")
def few(drawn) -> Clips:
    """Of all shapes alike."""
    return Clips(drawn.video[:24], drawn.captions[:24])


@pytest.mark.parametrize(
    "change",
    [
        lambda clip: clip,
        still,
        shuffled(),
        jittered(1),
        recoloured,
        faded,
        flattened,
        pumped(0.05),
        brightening(0.08),
        sharpened(1),
        softened(1, 0.03),
        reshaped(lambda cover, progress: cover),
    ],
    ids=["drawn", "still", "shuffled", "jitter", "colour", "faded", "flat", "flicker", "drift", "sharpened", "soft",
         "taken apart"],
)  # fmt: skip
def test_it_minds_neither_motion_nor_colour_nor_texture_nor_background(change, few, reference):
    # A tenth of honest clips lies outside the central range and loses a few per cent, as in the other metrics.
    assert value(change_clips(few, change), reference) >= 0.98


def test_two_pixels_of_blur_cost_a_tenth_because_round_corners_are_another_shape(few, reference):
    blur = change_clips(few, blurred(2))
    assert 0.85 < value(blur, reference) < 0.97
    assert np.median(wobble(blur)) < np.median(wobble(few)), "and they are as steady as can be"


# A radius that is off by a twentieth is the scale: exp(-1/2) = .61. By a tenth, two scales past the drawn clips' own:
# .14 and less. Stretched by .3 or shrunk to .7 it is by then off by as much.
@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (wobbling(0.05), 0.5, 0.7),
        (wobbling(0.1), 0.0, 0.14),
        (stretched(0.1), 0.9, 0.98),
        (stretched(0.3), 0.0, 0.14),
        (shrinking(0.9), 0.7, 0.9),
        (shrinking(0.7), 0.0, 0.14),
        (pure_noise(), 0.0, 0.01),
        (np.zeros_like, 0.0, 0.01),
    ],
    ids=["wobble", "wobble twice", "stretched", "stretched thrice", "shrunk", "shrunk thrice", "noise", "nothing"],
)
def test_an_outline_that_changes_loses(change, low, high, few, reference):
    assert low <= value(change_clips(few, change), reference) <= high


def test_another_shape_from_half_way_on_loses_most(few, reference):
    # A circle and a square differ least: .05 in the correlation of half the clip with the mean of both.
    assert value(switched(few), reference) < 0.35


def test_wobble_loses_in_order_and_slow_changes_that_no_jerk_betrays_do_too(few, reference):
    values = [value(change_clips(few, wobbling(amount)), reference) for amount in (0.02, 0.04, 0.07, 0.1)]
    assert values == sorted(values, reverse=True) and values[0] > 0.97 and values[-1] < 0.14
    slow = change_clips(few, shrinking(0.7))
    assert MotionSmoothness().score(slow, reference).value > 0.97 and value(slow, reference) < 0.14


def test_the_parts_name_what_is_wrong(few, reference):
    """An object that shrinks keeps its shape; one that is long in all frames alike keeps its outline."""
    steady, true = changed_in(shrinking(0.7), few, reference)
    assert steady < 0.14 and true > 0.97
    long = reshaped(lambda cover, progress: np.maximum(cover, np.roll(cover, 4, axis=0)))  # by two fifths of its radius
    steady, true = changed_in(long, few, reference)
    assert steady > 0.9 and true < 0.5


def test_wobble_does_not_depend_on_how_far_the_object_moves(drawn):
    """The drawn clips' own comes from edges between pixels, not from motion: a hundredth for the fastest."""
    fast = speed(drawn) > np.median(speed(drawn))
    assert abs(np.median(wobble(drawn)[fast]) - np.median(wobble(drawn)[~fast])) < 0.02
    assert np.median(wobble(change_clips(drawn, still))) < 1e-3 < np.median(wobble(drawn))


def test_the_embedded_autoencoder_keeps_outlines(adapter, reference):
    drawn = draw_clips(24, seed=5)
    decoded = Clips(adapter.decode(adapter.encode(drawn.video)), drawn.captions)
    assert value(decoded, reference) >= 0.98  # as drawn clips
    assert np.percentile(wobble(decoded), 95) < 0.06 and np.percentile(misfit(decoded), 95) < 0.12


@pytest.mark.parametrize("size", [dict(frames=9), dict(height=96, width=64), dict(height=64, width=64)], ids=str)
def test_other_sizes_see_the_same(size):
    drawn, reference = draw_clips(24, seed=31, **size), draw_clips(48, seed=32, **size)
    assert value(drawn, reference) >= 0.97
    # fewer pixels' own wobble at 64: the same lobes lie further above it
    assert 0.35 < value(change_clips(drawn, wobbling(0.05)), reference) < 0.75
