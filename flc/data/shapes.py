"""Procedural clips: one coloured shape that moves over a faintly textured grey background, with its caption.

The texture is random and still, and no caption says anything of it. It is what few sampling steps lose first: a
step from much noise lands on the mean of all textures, which is none. The clips are drawn by rule, so that what a
generated clip *should* show is known exactly and quality can be measured without any pretrained network (see
`flc/evaluate`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.75, 0.15, 0.85),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "star")
MOTIONS: dict[str, tuple[float, float]] = {  # unit direction (x to the right, y down)
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
#: A background is a grey of this range for the whole clip, and a texture that adds up to +-`TEXTURE` to it: values
#: at the corners of `CELLS` x `CELLS` squares of the shorter side, linear between them. The faintest object stands
#: out by four times as much.
BACKGROUND = (0.10, 0.35)
TEXTURE, CELLS = 0.07, 8
#: Radius of the shape and distance travelled over the clip, as fractions of the frame's shorter side.
RADIUS = (0.18, 0.22)
TRAVEL = (0.28, 0.40)
#: Furthest that a shape reaches from its centre along an axis, in radii (the star's sides), and a little air.
REACH = 1.29


@dataclass(frozen=True)
class ClipSpec:
    """What one clip shows. Lengths are fractions of the frame's shorter side."""

    shape: str
    colour: str
    motion: str
    radius: float
    travel: float
    start: tuple[float, float]
    background: float
    texture: int | None = None  # its seed; None: plain

    @property
    def caption(self) -> str:
        return caption(self.shape, self.colour, self.motion)


def caption(shape: str, colour: str, motion: str) -> str:
    return f"a {colour} {shape} moving {motion}"


def all_captions() -> list[str]:
    """The 144 captions, in a fixed order."""
    return [caption(s, c, m) for s, c, m in itertools.product(SHAPES, COLOURS, MOTIONS)]


def parse_caption(text: str) -> tuple[str, str, str]:
    """(shape, colour, motion) named in a caption; `ValueError` when it is not one of the drawn ones."""
    words = text.split()
    found = [[w for w in words if w in table] for table in (SHAPES, COLOURS, MOTIONS)]
    if any(len(f) != 1 for f in found):
        raise ValueError(f"caption {text!r} does not name one shape, one colour and one motion")
    return found[0][0], found[1][0], found[2][0]


def sample_spec(rng: np.random.Generator, text: str | None = None) -> ClipSpec:
    """A random clip; of a given caption, or of a caption drawn uniformly."""
    if text is None:
        shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        motion = rng.choice(list(MOTIONS))
    else:
        shape, colour, motion = parse_caption(text)
    radius, travel = rng.uniform(*RADIUS), rng.uniform(*TRAVEL)
    dx, dy = (travel * d for d in MOTIONS[str(motion)])
    margin = radius * REACH
    low = np.array([margin + max(0.0, -dx), margin + max(0.0, -dy)])
    high = np.array([1 - margin - max(0.0, dx), 1 - margin - max(0.0, dy)])
    x, y = rng.uniform(low, high)
    background, texture = rng.uniform(*BACKGROUND), int(rng.integers(2**31))
    return ClipSpec(str(shape), str(colour), str(motion), radius, travel, (x, y), background, texture)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Signed distance (negative inside) of points to a shape of nominal radius r at the origin.

    The nominal sizes give the shapes about equal areas, so that area does not tell them apart.
    """
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.89 * r
    if shape == "triangle":  # equilateral, apex up, circumradius 1.45 r
        side, inner = np.sqrt(3.0) / 2, 0.725 * r
        y = y - 0.3 * r
        return np.maximum(y - inner, side * abs(x) - 0.5 * y - inner)
    if shape == "cross":
        long, short = 1.15 * r, 0.42 * r
        horizontal = np.maximum(abs(x) - long, abs(y) - short)
        vertical = np.maximum(abs(x) - short, abs(y) - long)
        return np.minimum(horizontal, vertical)
    if shape == "diamond":
        return (abs(x) + abs(y) - 1.26 * r) / np.sqrt(2.0)
    if shape == "star":  # five points at 1.35 r, one up, and five notches at .75 r
        y = y - 0.13 * r
        fifth = 2 * np.pi / 5
        angle = abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)  # from the nearest point, 0 to 36 degrees
        along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
        point, notch = 1.35 * r, 0.75 * r
        step = np.array([notch * np.cos(fifth / 2) - point, notch * np.sin(fifth / 2)])  # point to notch
        return ((along - point) * step[1] - across * step[0]) / np.hypot(*step)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """(H, W) within +-`TEXTURE`: random corners, bilinear between them."""
    cell = min(height, width) / CELLS
    y, x = (np.arange(height) + 0.5) / cell, (np.arange(width) + 0.5) / cell
    corners = np.random.default_rng(seed).uniform(-TEXTURE, TEXTURE, (int(y[-1]) + 2, int(x[-1]) + 2))
    i, j = y.astype(int), x.astype(int)
    v, u = (y - i)[:, None], (x - j)[None]
    above = (1 - u) * corners[i][:, j] + u * corners[i][:, j + 1]
    below = (1 - u) * corners[i + 1][:, j] + u * corners[i + 1][:, j + 1]
    return (1 - v) * above + v * below


def draw(spec: ClipSpec, frames: int = 17, height: int = 48, width: int = 48) -> np.ndarray:
    """The clip as float32 (frames, height, width, 3) in [0, 1], edges anti-aliased over one pixel."""
    side = min(height, width)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    progress = np.linspace(0.0, 1.0, frames)
    dx, dy = MOTIONS[spec.motion]
    ox, oy = (width - side) / 2, (height - side) / 2
    cx = ox + side * (spec.start[0] + progress * spec.travel * dx)
    cy = oy + side * (spec.start[1] + progress * spec.travel * dy)
    d = _distance(spec.shape, xs - cx[:, None, None], ys - cy[:, None, None], spec.radius * side)
    alpha = np.clip(0.5 - d, 0.0, 1.0)[..., None]
    colour = np.array(COLOURS[spec.colour])
    ground = np.full((height, width, 1), spec.background)
    if spec.texture is not None:
        ground += texture(spec.texture, height, width)[..., None]
    return (ground + alpha * (colour - ground)).astype(np.float32)
