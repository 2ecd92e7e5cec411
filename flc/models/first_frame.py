"""What families have in common whose every clip is made from a first frame that a user gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from flc.models.folder import read_json
from flc.models.stock import StockAdapter


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

    def save_pipeline(self, folder: Path, transformer: nn.Module, scheduler: Any) -> None:
        """With the processor of images by the name that every transformers knows: where torchvision is missing it has
        another one, which the first 5.0 does not know."""
        super().save_pipeline(folder, transformer, scheduler)
        path = folder / "model_index.json"
        index = read_json(path)
        library, name = index["image_processor"]
        if name is not None and name.endswith("Pil"):
            index["image_processor"] = [library, name.removesuffix("Pil")]
            path.write_text(json.dumps(index, indent=2) + "\n")


def pictures(images: np.ndarray) -> Sequence[Image.Image]:
    """Of (B, height, width, 3) in [0, 1], as stock processors of images take them."""
    return [Image.fromarray(pixels) for pixels in (images.clip(0, 1) * 255).round().astype(np.uint8)]
