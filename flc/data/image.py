"""A still image as a viewer shows it: upright by its EXIF orientation, in sRGB, on white where it is transparent."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from flc.errors import UserError

WHITE = (255, 255, 255)


def open_image(path: Path, where: str = "") -> Image.Image:
    """The whole file as an RGB image; `where` stands before its path in errors."""
    try:
        if not path.is_file():
            raise UserError(f"{where}{path} {'is no file' if path.exists() else 'does not exist'}")
        # EXIF that does not parse and the like are warned about; too many pixels are an error as of twice the limit
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image.load()  # `verify` takes a JPEG that was cut off
            return coloured(upright(image))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: PIL's word for a broken PNG
        raise UserError(f"{where}{path} cannot be read as an image: {error}") from error


def read_image(path: Path, height: int, width: int, where: str = "") -> np.ndarray:
    """(height, width, 3) float32 in [0, 1], scaled to cover the frame and cropped at its centre, as clips are."""
    return fitted(open_image(path, where), height, width)


def upright(image: Image.Image) -> Image.Image:
    """Cameras store a picture as the sensor lay, and note in EXIF how it is to be turned."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that does not parse in one of many ways: viewers show such a picture as it is stored
        return image


def coloured(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits scaled rather than clipped, a colour profile applied, transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(of_16_bits(image)).convert("RGB")
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("L" if image.mode == "LA" else "RGB")
    colours = in_srgb(image)
    if alpha is None:
        return colours
    ground = Image.new("RGB", image.size, WHITE)
    ground.paste(colours, mask=alpha)
    return ground


def of_16_bits(image: Image.Image) -> np.ndarray:
    """(height, width) uint8 of grey levels from 0 to 65,535, which PIL's own conversion would clip at 255."""
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65_535:
        raise OSError("its grey levels are not of 8 or 16 bits: save it as an 8-bit PNG")
    return (levels / 257 + 0.5).astype(np.uint8)


def in_srgb(image: Image.Image) -> Image.Image:
    """By the colour profile inside the file, where there is one that fits its pixels."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source: Any = ImageCms.ImageCmsProfile(BytesIO(profile))
            shown = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert shown is not None  # without inPlace
            return shown
        except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another kind of pixels
            pass
    return image.convert("RGB")


def fitted(image: Image.Image, height: int, width: int, aspect: float = 1.0) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1] of an RGB image whose pixels are `aspect` times as wide as high: scaled to
    cover the frame and cropped at its centre."""
    shown = image.width * aspect
    scale = max(height / image.height, width / shown)
    size = (max(width, round(shown * scale)), max(height, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
