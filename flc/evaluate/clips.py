"""Clips to be measured, and where in each frame the moving object is.

The background of a drawn clip is nearly plain, so the object is whatever differs from it by more than a texture. It is
re-estimated in every frame (median of the frame's border), so that a change of brightness, which is
the flicker metric's business, does not look like an object.

Shapes: N clips, F frames, H height, W width. Lengths are fractions of the frame's shorter side, as
in `flc.data.shapes`; x to the right, y down, both from the centred square's upper left corner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps

import numpy as np

from flc.errors import UserError

#: Below this colour distance from the background (the diagonal of the RGB cube is 1.73) nothing counts
#: as an object: the faintest drawn object is at .49, so even one faded to a fifth of that is still seen.
FAINTEST = 0.08
#: The share of each frame's pixels taken to be inside the object when its contrast is estimated: two
#: fifths of the smallest drawn object in a 16:9 frame (5 % of it), which is safely its inside, not its edge.
INSIDE = 0.02
#: An object smaller than this share of the frame is a speck (the smallest drawn one, a triangle, has 5 to 9 %) ...
SPECK = 0.005
#: ... one larger than this is no object but the scene (the largest drawn one has 16 %).
SCENE = 0.4
#: Second moment of the mask over that of a disc of equal area: 1.0 (circle) to 1.22 (triangle) when
#: drawn, 1.7 to 1.9 with a stray speck of a twentieth of the object three radii (of that disc) away, and
#: 2.75 for two discs half a diameter apart, which are not one object.
SCATTERED = 2.0
#: Smoothness is a second difference in time.
LEAST_FRAMES = 3
#: An object has to be there in this share of the frames.
PRESENT = 0.8


@dataclass(frozen=True)
class Foreground:
    """Where the object is, for each clip and frame."""

    contrast: np.ndarray  # (N,) colour distance between object and background, at least FAINTEST
    difference: np.ndarray  # (N,F,H,W) distance of each pixel from the background, in units of the contrast
    mask: np.ndarray  # (N,F,H,W) 0 = background, 1 = object, .5 halfway across a blurred edge
    background: np.ndarray  # (N,F,3)
    centroid: np.ndarray  # (N,F,2) x, y; the frame's centre where there is no object
    area: np.ndarray  # (N,F) share of the frame
    scatter: np.ndarray  # (N,F) second moment over that of a disc of equal area, 1 for a disc
    colour: np.ndarray  # (N,F,3) mean over the object's inside; the background's where there is no object
    colour_spread: np.ndarray  # (N,F) root-mean-square colour distance inside the object from that mean

    @property
    def whole(self) -> np.ndarray:
        """(N,F) bool: the frame shows one compact object, neither a speck nor the whole scene."""
        return (self.area > SPECK) & (self.area < SCENE) & (self.scatter < SCATTERED)


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips with the captions they were made from; derived measurements are computed once and kept.

    video         (N,F,H,W,3) float32 in [0,1]
    captions      N of them
    first_frames  (N,H,W,3) float32 in [0,1], or None when no clip was made from an image
    given         (N,) bool, the clips that were made from their row of `first_frames` (image-to-video);
                  empty: none
    """

    video: np.ndarray
    captions: tuple[str, ...]
    first_frames: np.ndarray | None = None
    given: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    _memo: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_pixels("video", self.video, 5)
        n, frames, height, width, _ = self.video.shape
        if n < 1 or frames < LEAST_FRAMES or min(height, width) < 16:
            least = f"at least 1 clip, {LEAST_FRAMES} frames and 16 x 16 pixels are needed"
            raise UserError(f"video {self.video.shape}: {least}")
        if len(self.captions) != n:
            raise UserError(f"{n} clips need {n} captions, got {len(self.captions)}")
        if self.given.size == 0:
            object.__setattr__(self, "given", np.zeros(n, bool))
        if self.given.shape != (n,) or self.given.dtype != np.bool_:
            raise UserError(f"given must be {n} booleans, got {self.given.dtype} {self.given.shape}")
        if self.first_frames is None:
            if self.given.any():
                raise UserError(f"{self.given.sum()} clips are marked as given a first frame; pass first_frames")
            return
        _check_pixels("first_frames", self.first_frames, 4)
        if self.first_frames.shape != (n, height, width, 3):
            raise UserError(f"first_frames must be {(n, height, width, 3)}, got {self.first_frames.shape}")

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def side(self) -> int:
        """The frame's shorter side in pixels, the unit of all lengths."""
        return min(self.video.shape[2:4])

    @cached_property
    def foreground(self) -> Foreground:
        """The object in each frame; one clip at a time, so that the work stays in the processor's cache."""
        columns: list[np.ndarray] = []
        for index, clip in enumerate(self.video):  # stacking would hold gigabytes twice
            found = _foreground(clip)
            if not columns:  # laid out as `np.stack` would: sums of float32 depend on the order in memory
                columns = [np.empty_like(np.stack([one, one]), shape=(len(self), *one.shape)) for one in found]
            for column, one in zip(columns, found, strict=True):
                column[index] = one
        return Foreground(*columns)

    @cached_property
    def coherent(self) -> np.ndarray:
        """(N,) bool: the clip shows one compact object in nearly all of its frames."""
        return self.foreground.whole.mean(1) >= PRESENT


def remembered(measure: Callable[[Clips], np.ndarray]) -> Callable[[Clips], np.ndarray]:
    """A measurement of clips that is taken once per `Clips`: several metrics share it."""

    @wraps(measure)
    def once(clips: Clips) -> np.ndarray:
        key = f"{measure.__module__}.{measure.__qualname__}"
        if key not in clips._memo:
            clips._memo[key] = measure(clips)
        return clips._memo[key]

    return once


def check_same_size(clips: Clips, reference: Clips) -> None:
    """Clips are compared with a reference of the same frames, height and width only."""
    if clips.video.shape[1:] != reference.video.shape[1:]:
        raise UserError(f"clips {clips.video.shape[1:4]} and reference {reference.video.shape[1:4]} differ in size")


def _check_pixels(what: str, pixels: np.ndarray, axes: int) -> None:
    if pixels.ndim != axes or pixels.shape[-1] != 3:
        raise UserError(f"{what} must have {axes} axes, the last of 3 colours, got {pixels.shape}")
    if pixels.dtype != np.float32:
        raise UserError(f"{what} must be float32 in [0, 1], got {pixels.dtype}")
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):  # written so that nan fails, too
        raise UserError(f"{what} must be in [0, 1], got values from {pixels.min()} to {pixels.max()}")


def _foreground(clip: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of `Foreground`, in order, for one clip (F,H,W,3)."""
    _, height, width, _ = clip.shape
    side = min(height, width)
    border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, 1:-1, 0], clip[:, 1:-1, -1]], axis=1)
    background = np.median(border, axis=1)
    offset = clip - background[:, None, None]
    squared = np.einsum("fhwc,fhwc->fhw", offset, offset)
    stride = max(1, side // 32)  # a percentile needs no more than a thousand pixels
    sample = squared[:, ::stride, ::stride].reshape(len(clip), -1)
    peak = np.sqrt(np.median(np.percentile(sample, 100 * (1 - INSIDE), axis=1)))
    contrast = np.float32(max(peak, FAINTEST))
    difference = np.sqrt(squared) / contrast
    # A ramp around half the contrast: the mask's area does not depend on blur, and noise of up to a
    # quarter of the contrast stays out of it.
    mask = np.clip(2 * difference - 0.5, 0, 1)

    rows, columns = mask.sum(2), mask.sum(1)
    pixels = rows.sum(1)
    safe = np.maximum(pixels, 1)
    ys, xs = np.arange(height) + 0.5, np.arange(width) + 0.5
    x, y = columns @ xs / safe, rows @ ys / safe
    variance = columns @ xs**2 / safe - x**2 + rows @ ys**2 / safe - y**2
    scatter = 2 * np.pi * variance / safe  # a disc's second moment is its area over 2 pi
    seen = pixels / (height * width) > SPECK
    x, y = np.where(seen, x, width / 2), np.where(seen, y, height / 2)
    centroid = np.stack([x - (width - side) / 2, y - (height - side) / 2], axis=1) / side

    inside = (mask == 1).astype(np.float32)
    weight = np.maximum(inside.sum((1, 2)), 1)
    mean = np.einsum("fhw,fhwc->fc", inside, offset) / weight[:, None]
    second = np.einsum("fhw,fhw->f", inside, squared) / weight
    spread = np.sqrt(np.maximum(second - (mean**2).sum(1), 0))
    area = pixels / (height * width)
    colour = mean + background
    return np.asarray(contrast), difference, mask, background, centroid, area, scatter, colour, spread
