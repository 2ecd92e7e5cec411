"""One number per clip for each aspect of quality; the metrics compare their distributions.

Lengths are fractions of the frame's shorter side, luminances are in [0, 1].
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flc.evaluate.clips import Clips, remembered

#: Luminance of an RGB colour (Rec. 601).
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
#: Gradients below this share of the contrast per pixel are noise or shading, not an edge: an edge
#: blurred by 2 pixels still has .20, noise of 3 % on the faintest drawn object has .1.
EDGE = 0.1
#: Frames per clip in which halos are looked for; enough, as each has hundreds of pixels beside an edge.
HALO_LOOKS = 9
#: The four neighbours in the same frame.
NEIGHBOURS = ndimage.generate_binary_structure(2, 1)[None]


@remembered
def displacement(clips: Clips) -> np.ndarray:
    """(N,2) net displacement x, y over the clip: the least-squares line through the centroids.

    A line and not last minus first, so that jitter or one bad frame at an end is no motion.
    """
    t = _time(clips)
    return np.einsum("f,nfk->nk", t, clips.foreground.centroid) / (t @ t) * (len(t) - 1)


@remembered
def straightness(clips: Clips) -> np.ndarray:
    """(N,) correlation of the position with time, along the axis that is displaced the most; 0 without motion."""
    centroid, moved = clips.foreground.centroid, displacement(clips)
    axis = abs(moved).argmax(1)
    along = np.take_along_axis(centroid, axis[:, None, None], axis=2)[..., 0]
    along = along - along.mean(1, keepdims=True)
    t = _time(clips)
    norm = np.linalg.norm(along, axis=1) * np.linalg.norm(t)
    return np.where(norm > 1e-6, abs(along @ t) / np.maximum(norm, 1e-6), 0.0)


@remembered
def speed(clips: Clips) -> np.ndarray:
    """(N,) net displacement per frame."""
    return np.linalg.norm(displacement(clips), axis=1) / (clips.video.shape[1] - 1)


@remembered
def acceleration(clips: Clips) -> np.ndarray:
    """(N,) root-mean-square change of the centroid's velocity from frame to frame."""
    second = np.diff(clips.foreground.centroid, n=2, axis=1)
    return np.sqrt((second**2).sum(2).mean(1))


@remembered
def pixel_acceleration(clips: Clips) -> np.ndarray:
    """(N,) root-mean-square second difference of the pixels in time, in units of the object's contrast.

    Sees what the centroid cannot: things that come and go in place, and noise. Differences from the
    frame's own background are compared, so that global flicker is left to its own metric; their mean
    square, so that an object's jumps count and not faint noise all over the frame.
    """
    second = (np.diff(difference, n=2, axis=0) for difference in clips.foreground.difference)
    return np.array([np.sqrt(np.mean(np.square(d))) for d in second])


@remembered
def flicker(clips: Clips) -> np.ndarray:
    """(N,) mean change of luminance from frame to frame that motion does not explain.

    Of the pixels that are background in both frames, plus that of the object's mean colour.
    """
    lit = clips.foreground.colour @ LUMINANCE
    inside = abs(np.diff(lit, axis=1)).mean(1)
    return (
        np.array([_background_flicker(*pair) for pair in zip(clips.video, clips.foreground.mask, strict=True)]) + inside
    )


def _background_flicker(clip: np.ndarray, mask: np.ndarray) -> float:
    change = abs(np.diff(clip @ LUMINANCE, axis=0))
    still = (mask[1:] == 0) & (mask[:-1] == 0)
    if still.mean() < 0.1:  # no background to speak of: then nothing is explained by an object's motion
        return float(change.mean())
    return float((change * still).sum() / still.sum())


@remembered
def sharpness(clips: Clips) -> np.ndarray:
    """(N,) steepness of the object's edges, contrast per pixel: the gradient-weighted mean gradient.

    Integrated across an edge, sum(g²) / sum(g) is the inverse of the edge's width whatever its length:
    .7 for an edge anti-aliased over one pixel, 1 / (2 sqrt(pi) s) after a blur of s pixels, and more
    than 1 when a sharpened edge overshoots. Frames without an object do not count; 0 if none has one.
    """
    found = clips.foreground
    return np.array([_steepness(d[whole]) for d, whole in zip(found.difference, found.whole, strict=True)])


def _steepness(difference: np.ndarray) -> float:
    dx = np.diff(difference, axis=2)[:, :-1]
    dy = np.diff(difference, axis=1)[:, :, :-1]
    squared = dx * dx + dy * dy
    squared = squared[squared > EDGE**2]
    return float(squared.sum() / np.sqrt(squared).sum()) if squared.size else 0.0


@remembered
def overshoot(clips: Clips) -> np.ndarray:
    """(N,) by how much the object's edges exaggerate it, in units of its contrast: halos of over-sharpening.

    How much brighter than its core the object is 1 to 3 pixels inside its edge, plus how much darker
    than the background its surroundings are 1 to 3 pixels outside it ('bright' is along the line from
    background to object colour). 0 for a clean edge, below 0 for a blurred one. Means of signed values
    over many pixels, so that noise averages out.
    """
    look = np.linspace(0, clips.video.shape[1] - 1, HALO_LOOKS).round().astype(int)
    parts = (clips.video, clips.foreground.mask, clips.foreground.background)
    return np.array([_overshoot(*(part[look] for part in clip)) for clip in zip(*parts, strict=True)])


def _overshoot(clip: np.ndarray, mask: np.ndarray, background: np.ndarray) -> float:
    inner = ndimage.binary_erosion(mask > 0.5, NEIGHBOURS)
    core = ndimage.binary_erosion(inner, NEIGHBOURS, iterations=2)
    near = ndimage.binary_dilation(mask > 0.5, NEIGHBOURS)
    outer = ndimage.binary_dilation(near, NEIGHBOURS, iterations=2) & ~near
    rim = inner & ~core
    if not (core.any() and rim.any() and outer.any()):
        return 0.0
    offset = clip - background[:, None, None]
    means = [offset[region].mean(0) for region in (core, rim, outer)]
    direction = means[0] / max(float(means[0] @ means[0]), 1e-6)
    return float((means[1] - means[0] - means[2]) @ direction)


@remembered
def texture(clips: Clips) -> np.ndarray:
    """(N,) contrast of the background: standard deviation in space of its luminance, mean over some frames.

    Away from the object by more than a halo's reach. A plain background has 0.
    """
    look = np.linspace(0, clips.video.shape[1] - 1, HALO_LOOKS).round().astype(int)
    return np.array([_texture(v[look], m[look]) for v, m in zip(clips.video, clips.foreground.mask, strict=True)])


def _texture(clip: np.ndarray, mask: np.ndarray) -> float:
    ground = ~ndimage.binary_dilation(mask > 0, NEIGHBOURS, iterations=4)
    count = np.maximum(ground.sum((1, 2)), 1)
    lit = clip @ LUMINANCE
    mean = (lit * ground).sum((1, 2)) / count
    variance = (np.square(lit - mean[:, None, None]) * ground).sum((1, 2)) / count
    return float(np.sqrt(variance).mean())


def _time(clips: Clips) -> np.ndarray:
    frames = clips.video.shape[1]
    return np.arange(frames) - (frames - 1) / 2
