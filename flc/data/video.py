"""A video as a player shows it: frames by their times, upright, in square pixels, in the colours that its tags say.

What containers say of the number of frames and of the rate is not believed: both are wrong in many files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from flc.data.image import fitted
from flc.errors import UserError

T = TypeVar("T")
LATE = 1 / 16
"""Of the time between two frames that are taken: a frame that comes no later than this is taken as come in time. Stamps
are rounded, to milliseconds in some containers, and cameras waver; at equal rates each frame must be taken once."""
ALIKE = 0.01
"""Rates that differ by no more are one. Those of television and film are 1/1001 below whole ones."""


class TooShort(UserError):
    """A video at `path` that ends after so many `frames`."""

    def __init__(self, text: str, path: Path, frames: int) -> None:
        super().__init__(text)
        self.path, self.frames = path, frames


# -- code points of ITU-T H.273, as streams are tagged -------------------------------------------------------------

BT709, BT601 = 1, 5
LIMITED, FULL = 1, 2
#: Matrices that ffmpeg converts from: BT.709, FCC, BT.601 (two names), SMPTE 240M, BT.2020.
MATRICES = {1, 4, 5, 6, 7, 9, 10}
HDR = {16: "PQ", 18: "HLG"}
#: Of wide primaries, linear RGB to that of BT.709: BT.2020 (ITU-R BT.2087) and Display P3 (SMPTE EG 432-1).
WIDE = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}
DISPLAY = 2.4  # exponent of a reference display (ITU-R BT.1886)
TO_SDR = ("ffmpeg -i IN -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,"
          "zscale=t=bt709:m=bt709:r=tv,format=yuv420p OUT")  # fmt: skip


def read_video(path: Path, frames: int, height: int, width: int, fps: int | None = None) -> np.ndarray:
    """(frames, height, width, 3) float32 in [0, 1]: the first `frames` at `fps` a second, scaled to cover height x
    width and cropped at the centre."""
    return np.stack(taken(path, frames, fps, lambda frame, stream: picture(frame, stream, height, width)))


def check_video(path: Path, frames: int, height: int, width: int, fps: int | None = None) -> int:
    """`UserError` unless `read_video` can read it: the first frame is looked at, and all are decoded. How many of
    `frames` are different ones: not all where the video is slower than `fps`, or rests."""
    first: list[np.ndarray] = []

    def look(frame: Any, stream: Any) -> object:
        if not first:
            first.append(picture(frame, stream, height, width))
        return object()

    return len({id(one) for one in taken(path, frames, fps, look)})


def taken(path: Path, frames: int, fps: int | None, look: Callable[[Any, Any], T]) -> list[T]:
    """`look(frame, stream)` of the frames that are on a player's screen at 0, 1/fps, 2/fps, ... seconds; of all, one by
    one, where `fps` is not given.

    So what moves has its own speed and what rests its own time: frames of a faster video are left out, and those of a
    slower one taken again."""
    found: list[T] = []
    decoded = 0
    with opened(path) as (container, stream):
        scale = None if fps is None else fps * alike(stream, fps)
        for frame, end in timed(container, stream):
            if not decoded:
                check_colours(path, stream.codec_context.color_trc)
            decoded += 1
            count = 1 if scale is None else max(0, ceil(end * scale - LATE) - len(found))
            if count:
                found += [look(frame, stream)] * min(count, frames - len(found))  # a damaged stamp may be years away
            if len(found) == frames:
                return found
    at = f" at the model's {fps} a second" if decoded != len(found) else ""
    text = f"{path} has {len(found)} frames{at}, {frames} are needed: give --frames {len(found)} or fewer"
    raise TooShort(text, path, len(found))


def alike(stream: Any, fps: int) -> float:
    """By how much a video is slowed down whose rate, as it says itself, is all but the model's: nobody sees that, and
    each frame is taken once. Film at 24000/1001 a second would stand still once in every 1001 frames."""
    rate = float((stream.guessed_rate or stream.average_rate or 0) / fps)
    return rate if abs(rate - 1) <= ALIKE else 1.0


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file, and the stream of it that a player shows: no cover picture, no thumbnail."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise UserError(f"{path} cannot be read as a video: it holds no pictures")
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}") from error


def timed(container: Any, stream: Any) -> Iterator[tuple[Any, float]]:
    """Each frame with the seconds, counted from the first one's, until which it is shown. Frames without stamps come at
    the stream's rate; where time runs backwards it stands still; the last one stays as long as the one before it."""
    rate = stream.guessed_rate or stream.average_rate
    usual = float(1 / rate) if rate else 0.0
    gap, begin, before = usual, 0.0, None
    for frame in container.decode(stream):
        if before is not None:
            stamped = frame.time is not None and before.time is not None
            gap = max(0.0, frame.time - before.time) if stamped else usual
            begin += gap
            yield before, begin
        before = frame
    if before is not None:
        yield before, begin + (gap or usual)


def check_colours(path: Path, transfer: int) -> None:
    if name := HDR.get(transfer):
        raise UserError(f"{path} is HDR ({name}), and models are trained on ordinary clips: convert it, as by {TO_SDR}")


def picture(frame: Any, stream: Any, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1] of a decoded frame."""
    pixels, turned = upright(rgb_of(frame), frame)
    aspect = float(stream.sample_aspect_ratio or 1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    shown = fitted(image, height, width, 1 / aspect if turned else aspect)
    matrix = WIDE.get(stream.codec_context.color_primaries)
    return shown if matrix is None else narrower(shown, matrix)


def rgb_of(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8. The matrix of an untagged frame is guessed from its size, as players do it."""
    if frame.format.is_rgb:
        return frame.to_ndarray(format="rgb24")
    large = frame.width >= 1280 or frame.height > 576
    matrix = int(frame.colorspace) if int(frame.colorspace) in MATRICES else BT709 if large else BT601
    full = int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")
    span = FULL if full else LIMITED
    return frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=span).to_ndarray()


def upright(pixels: np.ndarray, frame: Any) -> tuple[np.ndarray, bool]:
    """Turned and mirrored by the display matrix, to the nearest quarter turn; whether rows became columns.

    The matrix takes a pixel at (x, y) to (a x + c y, b x + d y)."""
    told = frame.side_data.get("DISPLAYMATRIX")
    if told is None:
        return pixels, False
    a, b, _, c, d = (int(v) for v in np.frombuffer(told, np.int32)[:5])
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    if turned:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], turned


def narrower(pixels: np.ndarray, matrix: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Colours of wide primaries in those of BT.709."""
    linear = pixels**DISPLAY @ np.array(matrix, np.float32).T
    return (linear.clip(0, 1) ** (1 / DISPLAY)).astype(np.float32)
