"""Where clips come from: the drawn ones, or a user's folder. Both yield (video, caption) pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from flc import files
from flc.data.shapes import all_captions, draw, sample_spec
from flc.errors import UserError

Clip = tuple[np.ndarray, str]
"""(frames, height, width, 3) float32 in [0, 1], and its caption."""


LIST = "captions.jsonl"


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


def read_manifest(folder: Path) -> list[tuple[Path, str]]:
    """`captions.jsonl`: one {"file": ..., "caption": ...} a line, files relative to the folder."""
    manifest = folder / LIST
    if not manifest.exists():
        raise UserError(f"--data {folder} has no captions.jsonl (one {{'file': ..., 'caption': ...}} a line)")
    rows = []
    try:
        lines = files.read_text(manifest, files.LIST).split("\n")
    except OSError as error:
        raise UserError(f"{manifest} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest} cannot be read as UTF-8 text ({error}): save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = files.parse_json(line)
            path, caption = folder / entry["file"], entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest} line {number} is not {{'file': ..., 'caption': ...}}") from error
        if not isinstance(caption, str):
            raise UserError(f"{manifest} line {number}: caption {caption!r} is no text: write it in quotes")
        if not path.is_file():
            raise UserError(f"{manifest} line {number}: {path} {'is no file' if path.exists() else 'does not exist'}")
        rows.append((path, caption))
    if not rows:
        raise UserError(f"{manifest} is empty")
    return rows


def fitted(image: Any, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1] of a PIL image: scaled to cover the frame and cropped at its centre."""
    from PIL import Image

    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255


def step_of(rate: Fraction | None, fps: int | None) -> float:
    """Every how many frames of a video one is taken, so that what moves has its own speed at the model's frame rate:
    of a faster one some are left out, a slower one (or of an unknown rate) is taken as it is."""
    return max(1.0, float(rate / fps)) if rate and fps else 1.0


def read_video(path: Path, frames: int, height: int, width: int, fps: int | None = None) -> np.ndarray:
    """The first `frames` frames at no more than `fps` a second, scaled to cover height x width and cropped at the
    centre."""
    import av

    out: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            step = step_of(container.streams.video[0].average_rate, fps)
            for number, frame in enumerate(container.decode(video=0)):
                if number == round(len(out) * step):
                    out.append(fitted(frame.to_image(), height, width))
                if len(out) == frames:
                    break
    except (av.FFmpegError, OSError, IndexError) as error:  # IndexError: a file of sound only
        raise UserError(f"{path} cannot be read as a video: {error}") from error
    if len(out) < frames:
        raise UserError(too_short(path, len(out), frames, fps, step))
    return np.stack(out)


def too_short(path: Path, count: int, frames: int, fps: int | None, step: float) -> str:
    at = f" at the model's {fps} a second" if step > 1 else ""
    return f"{path} has {count} frames{at}, {frames} are needed: give --frames {count} or fewer"


def check_video(path: Path, frames: int, fps: int | None = None) -> None:
    """Whether a file can be opened as a video of that many frames, by its header: nothing is decoded."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} cannot be read as a video: it holds no pictures")
            stream = container.streams.video[0]
            count, step = stream.frames, step_of(stream.average_rate, fps)  # 0 frames: the header does not say
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}") from error
    taken = sum(1 for k in range(frames) if round(k * step) < count)
    if count > 0 and taken < frames:
        raise UserError(too_short(path, taken, frames, fps, step))


def folder_clips(
    folder: Path, rows: Iterable[int], frames: int, height: int, width: int, fps: int | None = None
) -> Iterator[Clip]:
    """The clips of a user's folder that have the numbers `rows`; after the last one comes the first again."""
    listed = read_manifest(folder)
    for row in rows:
        path, caption = listed[row % len(listed)]
        yield read_video(path, frames, height, width, fps), caption


def write_video(path: Path, video: np.ndarray, fps: int = 8, scale: int = 1, crf: int = 16) -> None:
    """An H.264 mp4 of (frames, height, width, 3) in [0, 1]; `scale` repeats pixels; a lower `crf` loses less."""
    import av

    pixels = (video.clip(0, 1) * 255).round().astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
