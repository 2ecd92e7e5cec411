"""Drawn clips, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from flc.data.shapes import COLOURS, TEXTURE, all_captions, draw, sample_spec
from flc.evaluate.clips import Clips


def draw_clips(n: int, seed: int, **size: int) -> Clips:
    """Clips of all captions in turn (a step of 31 reaches all words early)."""
    rng, captions = np.random.default_rng(seed), all_captions()
    specs = [sample_spec(rng, captions[31 * i % len(captions)]) for i in range(n)]
    return Clips(np.stack([draw(spec, **size) for spec in specs]), tuple(spec.caption for spec in specs))


def change_clips(clips: Clips, change: Callable[[np.ndarray], np.ndarray]) -> Clips:
    """Each clip (F,H,W,3) changed, kept in [0, 1]."""
    video = np.stack([np.clip(change(clip), 0, 1) for clip in clips.video]).astype(np.float32)
    return Clips(video, clips.captions, clips.first_frames, clips.given)


def blurred(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda clip: gaussian_filter(clip, (0, sigma, sigma, 0))


def noisy(amount: float, seed: int = 3) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda clip: clip + amount * rng.standard_normal(clip.shape, dtype=np.float32)


def softened(sigma: float, amount: float) -> Callable[[np.ndarray], np.ndarray]:
    """Blur, then noise; half a pixel and 1 % are what a good autoencoder leaves."""
    blur, noise = blurred(sigma), noisy(amount)
    return lambda clip: noise(blur(clip))


def still(clip: np.ndarray) -> np.ndarray:
    return np.repeat(clip[:1], len(clip), axis=0)


def shuffled(seed: int = 4) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda clip: clip[rng.permutation(len(clip))]


def pure_noise(seed: int = 5) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda clip: rng.random(clip.shape, dtype=np.float32)


def sharpened(amount: float) -> Callable[[np.ndarray], np.ndarray]:
    """Unsharp mask of one pixel."""
    return lambda clip: clip + amount * (clip - blurred(1)(clip))


def pumped(amount: float) -> Callable[[np.ndarray], np.ndarray]:
    """Brightness of the whole frame up and down by `amount` in turn."""
    return lambda clip: clip + amount * (-1.0) ** np.arange(len(clip))[:, None, None, None]


def jittered(pixels: int, seed: int = 8) -> Callable[[np.ndarray], np.ndarray]:
    """Each frame displaced at random by up to `pixels` along each axis."""
    rng = np.random.default_rng(seed)

    def displaced(frame: np.ndarray) -> np.ndarray:
        return np.roll(frame, tuple(rng.integers(-pixels, pixels + 1, 2)), (0, 1))

    return lambda clip: np.stack([displaced(frame) for frame in clip])


def flattened(clip: np.ndarray) -> np.ndarray:
    """Without the background's texture, as a jump from much noise leaves it."""
    ground = np.median(clip[:, [0, -1]], axis=(0, 1, 2))
    near = abs(clip - ground).max(-1, keepdims=True) < 2 * TEXTURE
    return np.where(near, ground, clip)


def faded(clip: np.ndarray) -> np.ndarray:
    """Halfway to the background, as few-step samples fade."""
    return 0.5 * (clip + clip[:, :1, :1])


def wrong_colour(clips: Clips) -> Clips:
    """The same clips, with captions that name another colour."""
    other = dict(zip(COLOURS, [*COLOURS][1:] + [*COLOURS][:1], strict=True))
    captions = tuple(" ".join(other.get(word, word) for word in text.split()) for text in clips.captions)
    return Clips(clips.video, captions, clips.first_frames, clips.given)


def collapsed(clips: Clips) -> Clips:
    """The first clip of a caption for all its seeds, all made from text alone."""
    first = [clips.captions.index(text) for text in clips.captions]
    return Clips(clips.video[first], clips.captions)
