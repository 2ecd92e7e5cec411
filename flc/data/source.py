"""Where clips come from: the drawn ones, or a user's folder. Both yield (video, caption) pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from flc.data.listing import read_listing
from flc.data.shapes import all_captions, draw, sample_spec
from flc.data.video import BT601, LIMITED, read_video

Clip = tuple[np.ndarray, str]
"""(frames, height, width, 3) float32 in [0, 1], and its caption."""


def drawn_clips(
    count: int, frames: int, height: int, width: int, seed: int, rows: Collection[int] | None = None
) -> Iterator[Clip]:
    """Of `count` drawn clips, every caption in turn, all, or those of the numbers `rows`."""
    rng, captions = np.random.default_rng([seed, 1]), all_captions()
    order = np.concatenate([rng.permutation(len(captions)) for _ in range(-(-count // len(captions)))])
    wanted = range(count) if rows is None else set(rows)
    for number, index in enumerate(order[:count]):
        spec = sample_spec(rng, captions[index])
        if number in wanted:
            yield draw(spec, frames, height, width), spec.caption


def users_clips(
    data: Path, rows: Iterable[int], frames: int, height: int, width: int, fps: int | None = None
) -> Iterator[Clip]:
    """The user's clips that have the numbers `rows`; after the last one comes the first again."""
    listed = read_listing(data).rows
    for row in rows:
        path, caption = listed[row % len(listed)]
        yield read_video(path, frames, height, width, fps), caption


def write_video(path: Path, video: np.ndarray, fps: int = 8, scale: int = 1, crf: int = 16) -> None:
    """An H.264 mp4 of (frames, height, width, 3) in [0, 1]; `scale` repeats pixels; a lower `crf` loses less.

    By BT.601, and tagged so: readers that go by tags and those that know no other matrix show the same colours."""
    import av

    pixels = (video.clip(0, 1) * 255).round().astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.options = {"crf": str(crf)}
        for rgb in pixels:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=BT601)))
        container.mux(stream.encode())


#: File names' endings of pictures that move, as Pillow calls their formats.
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}


def write_animation(path: Path, video: np.ndarray, fps: int = 8, scale: int = 1) -> None:
    """A GIF (of 256 colours a frame) or WebP of (frames, height, width, 3) in [0, 1] that repeats without end; `scale`
    repeats pixels. A GIF's clock has 100 ticks a second: frames are shown from the nearest one."""
    from PIL import Image

    kind = ANIMATIONS[path.suffix.lower()]
    tick = 10 if kind == "GIF" else 1  # in milliseconds
    begins = [round(1000 * frame / fps / tick) * tick for frame in range(len(video) + 1)]
    pixels = (video.clip(0, 1) * 255).round().astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
    first, *rest = (Image.fromarray(rgb) for rgb in pixels)
    lengths = [later - begin for begin, later in pairwise(begins)]
    first.save(path, kind, save_all=True, append_images=rest, duration=lengths, loop=0, quality=90)
