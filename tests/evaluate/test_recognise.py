"""Recognition of shape, colour and motion: right on drawn and on imperfect clips, 'none' in doubt."""

from __future__ import annotations

import numpy as np
import pytest

from flc.data.shapes import COLOURS, SHAPES, ClipSpec, draw, parse_caption
from flc.evaluate.clips import Clips
from flc.evaluate.recognise import ALIKE, NONE, Recognised, name_colours, recognise, shape_correlations, templates

from .spoil import change_clips, draw_clips, faded, noisy, pure_noise, shuffled, softened, still


def share_right(clips: Clips) -> float:
    wanted = [Recognised(*parse_caption(text)) for text in clips.captions]
    return float(np.mean([w == r for w, r in zip(wanted, recognise(clips), strict=True)]))


def spec(shape="circle", colour="red", motion="right", travel=0.36, start=(0.3, 0.5), background=0.2) -> ClipSpec:
    return ClipSpec(shape, colour, motion, 0.17, travel, start, background)


def show(clip: ClipSpec) -> np.ndarray:
    return draw(clip, frames=17, height=64, width=64)


def one(video: np.ndarray) -> Recognised:
    return recognise(Clips(np.clip(video, 0, 1)[None].astype(np.float32), ("",)))[0]


@pytest.fixture(scope="module")
def fresh() -> Clips:
    return draw_clips(200, seed=11)


def test_drawn_clips_are_recognised(fresh):
    assert share_right(fresh) >= 0.99  # asked for; 1.0 is reached


def test_blurred_noisy_clips_are_recognised(fresh):
    # Asked for; 1.0 is reached. Worse than any sample of the tiny autoencoder.
    assert share_right(change_clips(fresh, softened(1, 0.03))) >= 0.95


def test_clips_faded_by_half_are_recognised(fresh):
    """Few-step samples fade towards their background."""
    assert share_right(change_clips(fresh, faded)) >= 0.95  # 1.0 is reached


@pytest.mark.parametrize(
    "size", [dict(frames=9), dict(frames=33), dict(height=96, width=64), dict(height=64, width=64), dict(frames=5)]
)
def test_other_sizes_are_recognised(size):
    assert share_right(draw_clips(24, seed=12, **size)) == 1.0  # as the usual size: no clip of 200 is wrong there


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_its_own_best_template_by_a_margin(shape):
    correlations = shape_correlations(Clips(show(spec(shape))[None], ("",)))[0]
    own = correlations[SHAPES.index(shape)]
    # The closest templates, circle and square, correlate at .95: a margin of .05, less what depends on where pixels
    # fall; .054 is reached there, .075 by the diamond (.92 with the circle), .18 by the triangle.
    assert own - np.delete(correlations, SHAPES.index(shape)).max() > 0.04
    assert own > ALIKE


def test_templates_are_distinct_unit_vectors():
    gram = templates() @ templates().T
    np.testing.assert_allclose(np.diag(gram), 1, atol=1e-5)  # rounding of 576 float32 products
    # .950 (circle, square), .924 (circle, diamond) and .914 (cross, diamond) are reached; nearer 1, the margin above
    # could not hold.
    assert (gram - np.eye(len(SHAPES))).max() < 0.955


def test_colours_of_the_table_are_their_own_names_also_dimmed_and_paled():
    table = np.array(list(COLOURS.values()))
    for rgb in (table, 0.6 * table, 0.5 * table + 0.1, 0.6 * table + 0.35):  # dim, faded to dark grey, paled
        np.testing.assert_array_equal(name_colours(rgb), np.arange(6))


@pytest.mark.parametrize("rgb", [(0.1, 0.9, 0.9), (0.2, 0.2, 0.2), (0.35, 0.05, 0.05), (0.5, 0.95, 0.05)])
def test_colours_outside_the_table_are_none(rgb):
    assert name_colours(np.array(rgb)) == len(COLOURS)  # cyan, dark grey, near black, lime (hue between two)


def test_a_still_clip_has_shape_and_colour_but_no_motion():
    assert one(still(show(spec()))) == Recognised("circle", "red", NONE)


def test_frames_out_of_order_are_no_motion(drawn):
    moving = [r.motion != NONE for r in recognise(change_clips(drawn, shuffled()))]
    # Correlation with time of a random order of 17 is 0 +- .25; beyond .8 is 3.2 sigma: .1 % of clips.
    assert np.mean(moving) <= 0.02


def test_too_short_and_diagonal_motions_are_none():
    assert one(show(spec(travel=0.10))).motion == NONE  # below half of the shortest drawn travel, .14
    assert one(show(spec(travel=0.18))).motion == "right"
    right = show(spec(travel=0.3))
    diagonal = np.stack([np.roll(frame, round(1.1 * i), axis=0) for i, frame in enumerate(right)])
    assert one(diagonal).motion == NONE


def test_an_object_that_changes_colour_has_none():
    red, blue = show(spec()), show(spec(colour="blue"))
    assert one(np.concatenate([red[:8], blue[8:]])) == Recognised("circle", NONE, "right")


def test_an_object_of_two_colours_is_not_their_mean():
    """Red and blue halves average to purple."""
    red, blue = show(spec(motion="down", start=(0.5, 0.3))), show(spec(colour="blue", motion="down", start=(0.5, 0.3)))
    halves = np.concatenate([red[:, :, :32], blue[:, :, 32:]], axis=2)
    assert one(halves) == Recognised("circle", NONE, "down")


def test_an_ellipse_of_two_to_one_is_no_shape():
    wide = show(spec())[:, ::2]  # squeezed to half its height
    background = np.full((17, 16, 64, 3), 0.2)
    assert one(np.concatenate([background, wide, background], axis=1)) == Recognised(NONE, "red", "right")


@pytest.mark.parametrize(
    "kind", ["blank", "noise", "faint noise", "two objects", "scene", "mostly absent", "invisible"]
)
def test_clips_without_one_object_show_nothing(kind):
    clip = show(spec())
    upper, lower = show(spec(start=(0.3, 0.2))), show(spec(start=(0.3, 0.8)))
    video = {
        "blank": np.full_like(clip, 0.2),
        "noise": pure_noise()(clip),
        "faint noise": noisy(0.03)(np.full_like(clip, 0.2)),
        "two objects": np.concatenate([upper[:, :32], lower[:, 32:]], axis=1),
        "scene": np.pad(np.full((17, 56, 56, 3), 0.9), ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=0.2),
        "mostly absent": np.where(np.arange(17)[:, None, None, None] % 2 == 0, clip, np.float32(0.2)),
        "invisible": 0.2 + 0.02 * (clip - 0.2),
    }[kind]
    assert one(video) == Recognised(NONE, NONE, NONE)
