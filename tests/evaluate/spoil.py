"""Drawn clips, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from flc.data.shapes import COLOURS, SHAPES, TEXTURE, ClipSpec, all_captions, draw, parse_caption, sample_spec
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


def reshaped(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The object alone changed. `change` is given the share of each pixel (H,W) that the object covers in a frame, and
    which share of the clip has passed."""

    def changed(clip: np.ndarray) -> np.ndarray:
        plain = np.median(clip[:, [0, -1]], axis=(0, 1, 2))
        apart = np.linalg.norm(clip - plain, axis=-1)
        colour = clip.reshape(-1, 3)[apart.argmax()]
        ground = np.take_along_axis(clip, apart.argmin(0)[None, ..., None], 0)[0]  # when the object is elsewhere
        ground = np.where(abs(ground - plain).max(-1, keepdims=True) < 1.5 * TEXTURE, ground, plain)
        across = colour - ground
        cover = np.clip(np.einsum("fhwc,hwc->fhw", clip - ground, across) / (across**2).sum(-1), 0, 1)
        covers = [change(c, i / (len(clip) - 1)) for i, c in enumerate(cover)]
        return ground + np.stack(covers)[..., None] * across

    return changed


def scaled(cover: np.ndarray, factor: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(H,W) with the object's radius times `factor` of the angle, about its centroid."""
    (y, x), (cy, cx) = np.mgrid[: cover.shape[0], : cover.shape[1]], centre(cover)
    by = factor(np.arctan2(y - cy, x - cx))
    return map_coordinates(cover, [cy + (y - cy) / by, cx + (x - cx) / by], order=1)


def centre(cover: np.ndarray) -> tuple[float, float]:
    """Row and column of the centroid."""
    y, x = np.mgrid[: cover.shape[0], : cover.shape[1]]
    return (cover * y).sum() / cover.sum(), (cover * x).sum() / cover.sum()


def wobbling(amount: float, seed: int = 9) -> Callable[[np.ndarray], np.ndarray]:
    """The outline's radius off by `amount` of itself (root mean square), in two to four lobes, anew in each frame."""
    rng = np.random.default_rng(seed)

    def wobbled(cover: np.ndarray, progress: float) -> np.ndarray:
        lobes = [*zip((2, 3, 4), rng.normal(0, amount * np.sqrt(2 / 3), 3), rng.uniform(0, 2 * np.pi, 3), strict=True)]
        return scaled(cover, lambda angle: np.exp(sum(high * np.cos(n * angle + turn) for n, high, turn in lobes)))

    return reshaped(wobbled)


def stretched(amount: float) -> Callable[[np.ndarray], np.ndarray]:
    """Wider and lower by and by: at the end one radius is longer by `amount`, the other as much shorter."""
    return reshaped(lambda cover, progress: scaled(cover, lambda a: np.exp(amount * progress * np.cos(2 * a))))


def shrinking(to: float) -> Callable[[np.ndarray], np.ndarray]:
    """Smaller by and by."""
    return reshaped(lambda cover, progress: scaled(cover, lambda a: np.full_like(a, 1 - (1 - to) * progress)))


def switched(clips: Clips) -> Clips:
    """From half-way on another shape of the same area."""

    def becoming(shape: str) -> Callable[[np.ndarray], np.ndarray]:
        def other(cover: np.ndarray, progress: float) -> np.ndarray:
            side, (y, x) = len(cover), centre(cover)
            at, radius = ((x + 0.5) / side, (y + 0.5) / side), float(np.sqrt(cover.sum() / np.pi)) / side
            drawn = draw(ClipSpec(shape, "white", "right", radius, 0.0, at, 0.0), 1, side, side)
            return cover if progress < 0.5 else drawn[0, ..., 0] / COLOURS["white"][0]

        return reshaped(other)

    after = dict(zip(SHAPES, [*SHAPES[1:], SHAPES[0]], strict=True))
    parts = zip(clips.video, clips.captions, strict=True)
    video = [becoming(after[parse_caption(caption)[0]])(clip) for clip, caption in parts]
    return Clips(np.clip(video, 0, 1).astype(np.float32), clips.captions, clips.first_frames, clips.given)


def recoloured(clip: np.ndarray) -> np.ndarray:
    """From half-way on in another colour: red is green, green blue, blue red."""
    return np.where(np.arange(len(clip))[:, None, None, None] < len(clip) // 2, clip, clip[..., [2, 0, 1]])


def brightening(amount: float) -> Callable[[np.ndarray], np.ndarray]:
    """The whole frame brighter by and by, as backgrounds of few-step samples drift."""
    return lambda clip: clip + np.linspace(-amount, amount, len(clip), dtype=np.float32)[:, None, None, None]


def wrong_colour(clips: Clips) -> Clips:
    """The same clips, with captions that name another colour."""
    other = dict(zip(COLOURS, [*COLOURS][1:] + [*COLOURS][:1], strict=True))
    captions = tuple(" ".join(other.get(word, word) for word in text.split()) for text in clips.captions)
    return Clips(clips.video, captions, clips.first_frames, clips.given)


def collapsed(clips: Clips) -> Clips:
    """The first clip of a caption for all its seeds, all made from text alone."""
    first = [clips.captions.index(text) for text in clips.captions]
    return Clips(clips.video[first], clips.captions)


def wild(clips: Clips, seed: int = 11) -> Clips:
    """Objects of half to twice their size, and backgrounds of one grey: the clips differ more, and less."""
    rng = np.random.default_rng(seed)

    def grown(clip: np.ndarray, by: float) -> np.ndarray:
        plain = np.median(clip[:, [0, -1]], axis=(0, 1, 2))
        return reshaped(lambda cover, progress: scaled(cover, lambda a: np.full_like(a, by)))(clip) - plain + 0.2

    video = [grown(clip, by) for clip, by in zip(clips.video, np.exp2(rng.uniform(-1, 1, len(clips))), strict=True)]
    return Clips(np.clip(video, 0, 1).astype(np.float32), clips.captions, clips.first_frames, clips.given)
