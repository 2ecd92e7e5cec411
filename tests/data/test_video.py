"""A video is read as a player shows it. The files here are PyAV's, some with changed boxes (ISO 14496-12)."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flc.data.source import write_video
from flc.data.video import check_video, read_video
from flc.errors import UserError

SIZE = 96
#: Red upper left, blue lower right, on grey: no turn and no mirror image of it looks the same.
SCENE = np.full((SIZE, 128, 3), 128, np.uint8)
SCENE[: SIZE // 2, :64], SCENE[SIZE // 2 :, 64:] = (220, 30, 30), (30, 30, 220)
#: What is lost by H.264 at its usual quality and by chroma of half the resolution, away from edges.
CODED = 0.03


def encode(path: Path, frames: Sequence[np.ndarray], times: Sequence[int] | None = None, **settings: object) -> None:
    """`times` in units of `base`; the rest are attributes of the codec's context, or `codec`, `rate`, `options`."""
    codec, rate = str(settings.pop("codec", "libx264")), settings.pop("rate", 8)
    base, options = settings.pop("base", None), settings.pop("options", {})
    with av.open(str(path), "w", options=settings.pop("container", {})) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.options = {"bf": "0", **options}
        if base is not None:
            stream.codec_context.time_base = base
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[k], base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def numbered(count: int) -> list[np.ndarray]:
    """Frames that are told apart by their brightness."""
    return [np.full((SIZE, SIZE, 3), 5 * k, np.uint8) for k in range(count)]


def numbers(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) * 51) for frame in frames]


def patch(path: Path, box: bytes, offset: int, form: str, *values: int) -> None:
    """Numbers inside a box, `offset` bytes after its name."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(box) + 4 + offset, *values)
    path.write_bytes(bytes(data))


def orient(path: Path, a: int, b: int, c: int, d: int) -> None:
    """The display matrix of a track, version 0 of whose header `tkhd` PyAV writes."""
    one = 1 << 16
    patch(path, b"tkhd", 40, ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


#: How a camera lay: what is stored of the upright scene, and the matrix that shows it upright.
HELD = {
    "upright": (lambda x: x, (1, 0, 0, 1)),
    "a quarter to the left": (lambda x: np.rot90(x, 1), (0, 1, -1, 0)),
    "upside down": (lambda x: np.rot90(x, 2), (-1, 0, 0, -1)),
    "a quarter to the right": (lambda x: np.rot90(x, 3), (0, -1, 1, 0)),
    "mirrored": (lambda x: x[:, ::-1], (-1, 0, 0, 1)),
    "mirrored and a quarter turned": (lambda x: x.swapaxes(0, 1), (0, 1, 1, 0)),
    "mirrored and upside down": (lambda x: x[::-1], (1, 0, 0, -1)),
    "mirrored and three quarters turned": (lambda x: x[::-1, ::-1].swapaxes(0, 1), (0, -1, -1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("held", HELD)
def test_a_clip_is_upright_however_the_camera_was_held(tmp_path, held):
    stored, matrix = HELD[held]
    encode(tmp_path / "a.mp4", [stored(SCENE)] * 5)
    orient(tmp_path / "a.mp4", *matrix)
    frame = read_video(tmp_path / "a.mp4", 5, SIZE, 128)[0]
    for rows, columns in ((24, 32), (24, 96), (72, 32), (72, 96)):
        assert frame[rows, columns] == pytest.approx(SCENE[rows, columns] / 255, abs=CODED), (rows, columns)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path, turned):
    """A disc stays one. Stored 64 wide with pixels twice as wide as high, upright or lying on its side."""
    ys, xs = np.mgrid[0:96, 0:128]
    disc = np.where(((ys - 47.5) ** 2 + (xs - 63.5) ** 2 < 40**2)[..., None], 230, 20).astype(np.uint8)
    narrow = np.repeat(disc[:, ::2], 3, 2)
    encode(tmp_path / "a.mp4", [np.rot90(narrow) if turned else narrow] * 5,
           sample_aspect_ratio=Fraction(1, 2) if turned else Fraction(2, 1))  # fmt: skip
    if turned:
        orient(tmp_path / "a.mp4", 0, 1, -1, 0)
    shown = read_video(tmp_path / "a.mp4", 5, 96, 128)[0, ..., 0] > 0.5
    assert shown.any(1).sum() == pytest.approx(80, abs=2) and shown.any(0).sum() == pytest.approx(80, abs=2)


# -- time --------------------------------------------------------------------------------------------------------


def test_frames_of_a_varying_rate_are_taken_by_their_times(tmp_path):
    """24 frames at 60 a second, then 24 at 10: what a player shows at 0, 1/8, 2/8, ... seconds."""
    ticks = [10 * k for k in range(24)] + [240 + 60 * k for k in range(24)]
    encode(tmp_path / "a.mp4", numbered(48), ticks, base=Fraction(1, 600), rate=30)
    shown = [max(k for k, tick in enumerate(ticks) if tick <= 75 * i) for i in range(17)]
    assert numbers(read_video(tmp_path / "a.mp4", 17, 48, 48, 8)) == shown


def test_a_frame_that_stands_still_in_a_fast_clip_is_shown_as_long(tmp_path):
    ticks = [*range(8), *range(24, 32)]  # at 16 a second, with one second's rest
    encode(tmp_path / "a.mp4", numbered(16), ticks, base=Fraction(1, 16), rate=16)
    assert numbers(read_video(tmp_path / "a.mp4", 16, 48, 48, 8)) == [0, 2, 4, 6, *[7] * 8, 8, 10, 12, 14]


@pytest.mark.parametrize("fps", [16, 24])
@pytest.mark.parametrize("early", [False, True])
def test_what_moves_in_a_slower_clip_has_its_own_speed_and_what_rests_its_own_time(tmp_path, fps, early):
    """Twelve frames a second, with a rest of a second; and the same with one frame that comes early."""
    ticks = [*range(0, 600, 50), *range(1150, 1750, 50)]
    if early:
        ticks[3] -= 40
    encode(tmp_path / "a.mp4", numbered(24), ticks, base=Fraction(1, 600), rate=12)
    late = 600 / fps / 16
    shown = [max(k for k, tick in enumerate(ticks) if tick <= 600 * i / fps + late) for i in range(2 * fps)]
    assert numbers(read_video(tmp_path / "a.mp4", 2 * fps, 48, 48, fps)) == shown
    assert check_video(tmp_path / "a.mp4", 2 * fps, 48, 48, fps) == len(set(shown))


@pytest.mark.parametrize(("rate", "fps"), [(Fraction(24000, 1001), 24), (Fraction(30000, 1001), 30)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_each_frame_of_film_and_television_is_taken_once_at_their_whole_rates(tmp_path, rate, fps, kind):
    """By their times a 63rd frame would be taken twice."""
    encode(tmp_path / f"a.{kind}", numbered(50) * 2, rate=rate)
    assert numbers(read_video(tmp_path / f"a.{kind}", 100, 48, 48, fps)) == [*range(50)] * 2


def test_a_rate_of_a_thousand_in_the_header_is_not_believed(tmp_path):
    """Recorders of browsers stamp in milliseconds, and name that as the rate."""
    encode(tmp_path / "a.webm", numbered(48), [33 * k for k in range(48)],
           base=Fraction(1, 1000), rate=1000, codec="libvpx")  # fmt: skip
    wanted = [max(k for k in range(48) if 33 * k <= 1000 * i / 16 + 1000 / 16 / 16) for i in range(24)]
    assert numbers(read_video(tmp_path / "a.webm", 24, 48, 48, 16)) == wanted
    check_video(tmp_path / "a.webm", 5, 48, 48, 16)


@pytest.mark.parametrize("rate", [8, 16, 24])
def test_at_equal_rates_each_frame_is_taken_once_however_its_stamp_is_rounded(tmp_path, rate):
    times = [round(1000 * k / rate) for k in range(32)]
    encode(tmp_path / "a.mkv", numbered(32), times, base=Fraction(1, 1000), rate=rate)
    assert numbers(read_video(tmp_path / "a.mkv", 32, 48, 48, rate)) == list(range(32))


def test_a_stamp_that_is_days_away_costs_no_memory(tmp_path):
    """At ten times the rate asked for, and then a last frame after twelve days: ten million times it could be asked
    for, whose list alone is 80 MB. The nine frames are one MB, as they are decoded and scaled."""
    encode(tmp_path / "a.mkv", numbered(21), [*range(0, 200, 10), 10**9], base=Fraction(1, 1000), rate=100)
    tracemalloc.start()
    found = numbers(read_video(tmp_path / "a.mkv", 9, 48, 48, 10))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [0, 10, *[19] * 7] and most < 20e6


def test_a_stream_without_stamps_goes_at_its_rate(tmp_path):
    encode(tmp_path / "a.h264", numbered(16), rate=16)
    assert numbers(read_video(tmp_path / "a.h264", 8, 48, 48, 8)) == list(range(0, 16, 2))


def test_a_clip_begins_where_its_edit_list_says(tmp_path):
    """Trimmed without encoding anew, as phones do: the header still counts the frames that are not shown."""
    path = tmp_path / "a.mp4"
    encode(path, numbered(40), options={"g": "250"})
    data = path.read_bytes()
    entry = data.index(b"elst") + 4
    length, start = struct.unpack_from(">Ii", data, entry + 8)
    [scale] = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    patch(path, b"elst", 8, ">Ii", length - 30 * 1000 // 8, start + 30 * scale // 8)
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 40
    assert numbers(read_video(path, 10, 48, 48, 8)) == list(range(30, 40))
    for look in (check_video, read_video):
        with pytest.raises(UserError, match=r"a\.mp4 has 10 frames, 17 are needed: give --frames 10 or fewer"):
            look(path, 17, 48, 48, 8)


def test_a_header_that_counts_its_first_fragment_alone_refuses_nothing(tmp_path):
    encode(tmp_path / "a.mp4", numbered(40), options={"g": "8"}, container={"movflags": "frag_keyframe"})
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].frames < 17
    check_video(tmp_path / "a.mp4", 40, 48, 48, 8)


def test_a_clip_that_was_cut_off_is_found_by_what_can_be_decoded(tmp_path):
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    encode(path, list(noise), container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 20
    with pytest.raises(UserError, match=r"a\.mp4 (has \d+ frames, 17 are needed|cannot be read as a video)"):
        check_video(path, 17, 48, 48, 8)


# -- colour ------------------------------------------------------------------------------------------------------

RGB = np.array([220, 30, 60]) / 255
#: Weights of red and blue in luma (ITU-T H.273), by the code point of the matrix.
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def planes(rgb: np.ndarray, matrix: int, full: bool) -> list[int]:
    """8-bit Y, Cb, Cr of a colour by H.273."""
    kr, kb = LUMA[matrix]
    y = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    u, v = (rgb[2] - y) / (2 * (1 - kb)), (rgb[0] - y) / (2 * (1 - kr))
    if full:
        return [round(255 * y), round(128 + 255 * u), round(128 + 255 * v)]
    return [round(16 + 219 * y), round(128 + 224 * u), round(128 + 224 * v)]


def plain(path: Path, values: Sequence[int], width: int = 64, height: int = 64, **tags: int) -> None:
    """A clip of one colour, given as Y, Cb, Cr, losslessly."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"qp": "0"}
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        if "color_range" in tags:
            frame.color_range = tags["color_range"]  # or the encoder's frames are converted to it
        if "colorspace" in tags:
            frame.colorspace = tags["colorspace"]
        for _ in range(5):
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
def test_colours_are_those_that_the_tags_say(tmp_path, matrix, full):
    plain(tmp_path / "a.mp4", planes(RGB, matrix, full), colorspace=matrix, color_range=1 + full)
    found = read_video(tmp_path / "a.mp4", 5, 48, 48)[0, 20, 20]
    assert found == pytest.approx(RGB, abs=3 / 255)  # three roundings to 8 bits


@pytest.mark.parametrize(("size", "matrix"), [((640, 480), 5), ((720, 576), 5), ((1280, 720), 1), ((608, 1080), 1)])
def test_colours_without_tags_are_bt601_in_small_clips_and_bt709_in_large_ones(tmp_path, size, matrix):
    plain(tmp_path / "a.mp4", planes(RGB, matrix, False), *size)
    assert read_video(tmp_path / "a.mp4", 1, 48, 48)[0, 20, 20] == pytest.approx(RGB, abs=3 / 255)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_how_to_convert_it(tmp_path, transfer, name):
    plain(tmp_path / "a.mp4", [120, 128, 128], colorspace=9, color_primaries=9, color_trc=transfer)
    for look in (check_video, read_video):
        with pytest.raises(UserError, match=rf"a\.mp4 is HDR \({name}\).*convert it, as by ffmpeg .*tonemap"):
            look(tmp_path / "a.mp4", 5, 48, 48)


@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_primaries_become_those_of_bt709(tmp_path, primaries):
    """White and grey stay; BT.709's own red, as it is in the wide primaries, is red again. The matrices back are
    BT.2087's and EG 432-1's, the display's exponent BT.1886's."""
    there = {9: [0.6274, 0.0691, 0.0164], 12: [0.8225, 0.0332, 0.0171]}[primaries]
    matrix = 9 if primaries == 9 else 1
    red = np.array(there) ** (1 / 2.4)
    for colour, shown in ((red, [1, 0, 0]), (np.full(3, 0.5), [0.5] * 3), (np.ones(3), [1] * 3)):
        plain(tmp_path / "a.mp4", planes(colour, matrix, False), colorspace=matrix, color_primaries=primaries)
        found = read_video(tmp_path / "a.mp4", 1, 48, 48)[0, 20, 20]
        # a dark channel's 8 bits are coarse in linear light: .06 is what a 255th at .03 comes to, to the power 1/2.4
        assert found == pytest.approx(shown, abs=0.06 if 0 in shown else 4 / 255)


@pytest.mark.parametrize("size", [(96, 128), (720, 1280)])
def test_a_clip_that_we_write_is_read_back_in_its_colours_whatever_its_size(tmp_path, size):
    write_video(tmp_path / "a.mp4", np.broadcast_to(RGB, (5, *size, 3)))
    assert read_video(tmp_path / "a.mp4", 5, 48, 48)[0, 20, 20] == pytest.approx(RGB, abs=4 / 255)
    with av.open(str(tmp_path / "a.mp4")) as file:
        frame = next(file.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (5, 1)
        found = [bytes(plane)[20] for plane in frame.planes]
    assert found == pytest.approx(planes(RGB, 5, False), abs=2), "BT.601, which readers take that go by no tags"


def test_a_cover_picture_is_not_the_video(tmp_path):
    path = tmp_path / "a.mkv"
    encode(tmp_path / "plain.mkv", numbered(8))
    with av.open(str(tmp_path / "plain.mkv")) as source, av.open(str(path), "w") as file:
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 128, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        stream = file.add_stream_from_template(source.streams.video[0])
        picture = av.VideoFrame.from_ndarray(SCENE, format="rgb24").reformat(format="yuvj420p")
        for packet in cover.encode(picture):
            file.mux(packet)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    assert numbers(read_video(path, 8, 48, 48)) == list(range(8))
