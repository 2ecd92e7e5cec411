"""Which shape, colour and motion a clip shows, by rule; made to be right on imperfect clips.

Each question has its own evidence: the shape is the mask's outline, brought to a common position and
size; the colour is the hue of the object's inside, because a faded or dim object keeps its hue; the
motion is a straight line fitted to the centroid. The answer is 'none' where the evidence is weak: a
generated clip must not be right by luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates

from flc.data.shapes import COLOURS, MOTIONS, SHAPES, TRAVEL, ClipSpec, draw
from flc.evaluate.clips import Clips, remembered
from flc.evaluate.measurements import displacement, straightness

NONE = "none"
#: Points per side of the common grid on which outlines are compared, and how many frames are looked at.
GRID, LOOKS = 24, 9
#: Least correlation with a shape's template. Drawn clips have .98 or more with their own shape (.96 when
#: blurred by 2 pixels); different shapes have .72 (square, cross) to .95 (circle, square) with each other.
ALIKE = 0.85
#: Less saturated than this is white, more is a hue. The table's hues have .82 or more; green that has
#: faded by half towards white still has .36.
SATURATED = 0.25
#: A hue further than this from every colour of the table (degrees) is none of them; the table's
#: closest hues, red and yellow, are 54 degrees apart.
HUE = 30.0
#: Brightest channel of a colour that is one. Backgrounds end at .35; the table's darkest colour has .75,
#: and .42 when it has faded by half into the darkest background.
BRIGHT = 0.4
#: Two colours in one object: red and blue halves have a spread of .56, a plain one at most .13 (blurred).
MIXED = 0.25
#: A clip has its colour in this share of its frames, or it has none.
STEADY = 0.75
#: Least net displacement: half of the shortest drawn one.
MOVED = TRAVEL[0] / 2
#: The dominant axis moves at least this many times as far as the other one (27 degrees off the axis).
DOMINANT = 2.0
#: Least correlation of position with time. Frames in a random order have about 0 +- .25 for 17 of them; a
#: clip that moves in its first half only has .90.
STRAIGHT = 0.8


@dataclass(frozen=True)
class Recognised:
    """What a clip shows; each 'none' when it cannot be told."""

    shape: str
    colour: str
    motion: str


def recognise(clips: Clips) -> list[Recognised]:
    """What each clip shows; three times 'none' for a clip without one compact object."""
    answers = zip(shapes(clips), colours(clips), motions(clips), clips.coherent, strict=True)
    return [Recognised(s, c, m) if ok else Recognised(NONE, NONE, NONE) for s, c, m, ok in answers]


def shapes(clips: Clips) -> list[str]:
    """The shape whose template correlates best with the clip's outlines, averaged over some frames."""
    return [SHAPES[int(row.argmax())] if row.max() >= ALIKE else NONE for row in shape_correlations(clips)]


@remembered
def shape_correlations(clips: Clips) -> np.ndarray:
    """(N, shapes) correlation, in [-1, 1], with each of `SHAPES`; frames without an object count as 0."""
    seen = outlines(clips)
    correlation = np.einsum("nlp,sp->nls", seen, templates())
    return correlation.mean(1)


def outlines(clips: Clips, steady_size: bool = False) -> np.ndarray:
    """(N, LOOKS, GRID²) masks, centred, scaled to unit area, with mean 0 and norm 1; 0 without object.

    `steady_size`: all of a clip scaled alike, by its median area, so that an object that grows has another outline.
    """
    n, frames, height, width = clips.foreground.mask.shape
    looks = np.linspace(0, frames - 1, min(LOOKS, frames)).round().astype(int)
    side = clips.side
    offset = np.array([(width - side) / 2, (height - side) / 2])
    centre = clips.foreground.centroid[:, looks] * side + offset - 0.5  # pixel centres at whole numbers
    area = clips.foreground.area[:, looks]
    area = np.broadcast_to(np.median(area, axis=1, keepdims=True), area.shape) if steady_size else area
    size = np.sqrt(area * height * width)
    reach = np.linspace(-1, 1, GRID)  # the furthest corner, of the triangle, lies .88 from its centroid
    ys, xs = np.meshgrid(reach, reach, indexing="ij")
    x = centre[..., 0, None] + size[..., None] * xs.ravel()
    y = centre[..., 1, None] + size[..., None] * ys.ravel()
    picture = np.broadcast_to(np.arange(n * len(looks)).reshape(n, -1, 1), x.shape)
    masks = clips.foreground.mask[:, looks].reshape(-1, height, width)
    values = map_coordinates(masks, [picture, y, x], order=1, mode="constant")
    values = values - values.mean(-1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)
    return values * clips.foreground.whole[:, looks, None]


@lru_cache(maxsize=1)
def templates() -> np.ndarray:
    """(shapes, GRID²) the outlines of drawn shapes, measured as any clip's are, so that no bias is left."""
    specs = [ClipSpec(shape, "white", "right", 0.17, 0.0, (0.5, 0.5), 0.1) for shape in SHAPES]
    drawn = Clips(np.stack([draw(spec, frames=3) for spec in specs]), tuple(spec.caption for spec in specs))
    return outlines(drawn)[:, 0]


def colours(clips: Clips) -> list[str]:
    """The colour that the object has in most frames; 'none' if it changes or the object is mixed."""
    names = np.array([*COLOURS, NONE])
    index = name_colours(clips.foreground.colour)
    index = np.where((clips.foreground.colour_spread < MIXED) & clips.foreground.whole, index, len(COLOURS))
    share = np.stack([(index == i).mean(1) for i in range(len(COLOURS))], axis=1)
    best = np.where(share.max(1) >= STEADY, share.argmax(1), len(COLOURS))
    return names[best].tolist()


def name_colours(rgb: np.ndarray) -> np.ndarray:
    """Index into COLOURS of each colour (..., 3), or len(COLOURS) for none: by brightness, then by hue."""
    table = np.array(list(COLOURS.values()))
    white = list(COLOURS).index("white")
    value, low = rgb.max(-1), rgb.min(-1)
    saturation = (value - low) / np.maximum(value, 1e-6)
    apart = abs((_hue(rgb)[..., None] - _hue(table) + 180) % 360 - 180)
    apart[..., white] = np.inf  # white has no hue
    index = np.where(apart.min(-1) <= HUE, apart.argmin(-1), len(COLOURS))
    index = np.where(saturation < SATURATED, white, index)
    return np.where(value >= BRIGHT, index, len(COLOURS))


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Hue angle in degrees: the direction of the colour seen along the grey axis."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    return np.degrees(np.arctan2(np.sqrt(3.0) * (g - b), 2 * r - g - b))


def motions(clips: Clips) -> list[str]:
    """The direction of the straight line through the centroids, if it is long, straight and along an axis."""
    names = []
    for (dx, dy), straight in zip(displacement(clips), straightness(clips), strict=True):
        far, near = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
        if far < MOVED or far < DOMINANT * near or straight < STRAIGHT:
            names.append(NONE)
        else:
            names.append(max(MOTIONS, key=lambda m: dx * MOTIONS[m][0] + dy * MOTIONS[m][1]))
    return names
