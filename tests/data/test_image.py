"""A still image is what a viewer shows of its file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from flc.data.image import open_image, read_image
from flc.errors import UserError

#: Red upper left, blue lower right, on grey: no turn and no mirror image of it looks the same.
SCENE = np.full((24, 32, 3), 128, np.uint8)
SCENE[:12, :16], SCENE[12:, 16:] = (220, 30, 30), (30, 30, 220)

#: What a camera stores of the upright scene, by the number that it notes in EXIF's Orientation (274).
STORED = {
    1: SCENE, 2: SCENE[:, ::-1], 3: SCENE[::-1, ::-1], 4: SCENE[::-1], 5: SCENE.swapaxes(0, 1),
    6: np.rot90(SCENE, 1), 7: SCENE[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(SCENE, 3),
}  # fmt: skip


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_upright_by_its_exif(tmp_path, orientation, form):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    image.save(tmp_path / f"a.{form}", exif=exif, quality=100)
    shown = read_image(tmp_path / f"a.{form}", 24, 32)
    for rows, columns in ((6, 8), (6, 24), (18, 8), (18, 24)):
        assert shown[rows, columns] == pytest.approx(SCENE[rows, columns] / 255, abs=0.03), "JPEG's loss"


def test_exif_that_does_not_parse_is_passed_over(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), SCENE)


def test_what_is_transparent_is_white_whatever_colour_lies_under_it(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 0, 0, 255)
    pixels[:, 4:6] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    grey = Image.fromarray(pixels).convert("LA")
    grey.save(tmp_path / "la.png")
    shown = np.asarray(open_image(tmp_path / "rgba.png"))
    assert shown[0, 0].tolist() == [200, 0, 0] and shown[0, 7].tolist() == [255] * 3
    assert shown[0, 4] == pytest.approx([127] * 3, abs=1), "half of white"
    assert np.asarray(open_image(tmp_path / "la.png"))[0, 7].tolist() == [255] * 3


def test_a_palette_shows_its_colours_and_its_transparent_entry_is_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 255, 0, 200, 30, 30])
    image.paste(0, (4, 0, 8, 8))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=0)
    image.save(tmp_path / "clear.gif", transparency=0)
    plain, *clear = (np.asarray(open_image(tmp_path / name)) for name in ("plain.png", "clear.png", "clear.gif"))
    assert plain[0, 0].tolist() == [200, 30, 30] and plain[0, 7].tolist() == [0, 255, 0]
    for shown in clear:
        assert shown[0, 0].tolist() == [200, 30, 30] and shown[0, 7].tolist() == [255] * 3


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(tmp_path, form):
    levels = np.array([[0, 257 * 64, 257 * 128, 65_535]], np.uint16).repeat(4, 0)
    Image.fromarray(levels).save(tmp_path / f"a.{form}")
    assert np.asarray(open_image(tmp_path / f"a.{form}"))[0, :, 1].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("levels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)])
def test_grey_of_32_bits_is_refused_since_what_is_white_is_not_said(tmp_path, levels):
    Image.fromarray(levels).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"--image .*a\.tiff cannot be read as an image: its grey levels.*8-bit PNG"):
        open_image(tmp_path / "a.tiff", "--image ")


def test_cmyk_is_shown_in_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff"))[0, 0].tolist() == [255, 0, 0]


def test_a_colour_profile_is_applied_and_a_damaged_one_passed_over(tmp_path):
    """Of a profile whose primaries are swapped: what is stored as red is shown as blue."""
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    image.save(tmp_path / "a.png", icc_profile=bytes(swapped))
    image.save(tmp_path / "b.png", icc_profile=b"no profile")
    shown, plain = (np.asarray(open_image(tmp_path / name))[0, 0] for name in ("a.png", "b.png"))
    assert shown == pytest.approx([0, 0, 255], abs=2) and plain.tolist() == [255, 0, 0]
