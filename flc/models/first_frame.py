"""What families have in common whose every clip is made from a first frame that a user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flc.errors import UserError
from flc.models.folder import read_json
from flc.models.safe import entries_of
from flc.models.stock import StockAdapter

#: Pixels of a side that an encoder of images may be shown; today's have 224 to 512.
LARGEST = 4096


class FirstFrameAdapter(StockAdapter):
    """Before the family's own adapter among a class's bases."""

    @property
    def needs_first_frame(self) -> bool:
        return True

    @property
    def image_to_video(self) -> bool:
        return True

    def takes_first_frame(self, folder: Path) -> bool:
        return True

    def check_sight(self, pipe: Any, folder: Path, sides: int) -> None:
        """`UserError` unless the processor makes of an image what its encoder takes, `sides` pixels each way."""
        names = ("preprocessor_config.json", "processor_config.json")
        for place in (path for name in names if (path := folder / "image_processor" / name).exists()):
            for name, value in entries_of({n: read_json(place).get(n) for n in ("size", "crop_size")}):
                if isinstance(value, int | float) and not 0 < value <= LARGEST:
                    raise UserError(f"{place}: {name} {value} is no size of an image")
        pixels = pipe.image_processor(images=[Image.new("RGB", (64, 48))], return_tensors="pt").pixel_values
        if pixels.shape != (1, 3, sides, sides) or not pixels.isfinite().all():
            made = f"makes {tuple(pixels.shape)} of an image, its encoder takes {(1, 3, sides, sides)}"
            raise UserError(f"{folder / 'image_processor'} {made}: take both from one model")

    def mend(self, folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
        """The processor of images goes by the name that every transformers knows: where torchvision is missing it has
        another one, which the first 5.0 does not know."""
        entries = super().mend(folder, index)
        library, name = index.get("image_processor") or (None, None)
        return entries | ({"image_processor": [library, name.removesuffix("Pil")]} if name else {})


def pictures(images: np.ndarray) -> Sequence[Image.Image]:
    """Of (B, height, width, 3) in [0, 1], as stock processors of images take them."""
    return [Image.fromarray(pixels) for pixels in (images.clip(0, 1) * 255).round().astype(np.uint8)]
