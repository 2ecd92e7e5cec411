"""The picture of the rooms is of the code as it is."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_picture_is_drawn_from_todays_imports():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rooms)
    assert rooms.drawn() == (ROOT / "docs" / "rooms.svg").read_text(), "draw it again: python docs/rooms.py"
    words = [node.text for node in ET.fromstring(rooms.drawn()).iter() if node.tag.endswith("text")]
    assert "distill" in words and "flc/train" in words
    assert {"data", "models", "train"} <= rooms.reached(ROOT / "flc" / "run" / "stages" / "distill.py")
    assert rooms.reached(ROOT / "flc" / "run" / "stages" / "prune.py") & set(rooms.ROOMS) == {"models"}
