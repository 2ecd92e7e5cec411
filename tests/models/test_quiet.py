"""What the libraries underneath would say is not said, or has no cause."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.metadata import version

from packaging.version import Version

from flc.models.folder import EMBEDDED, adapter_for

#: As if the package were not installed, which transformers looks for without importing it.
WITHOUT_TORCHVISION = """
import importlib.util, sys
find, sys.modules["torchvision"] = importlib.util.find_spec, None
importlib.util.find_spec = lambda name, *more: None if name.split(".")[0] == "torchvision" else find(name, *more)
"""


def said(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout + ran.stderr


def test_families_are_looked_up_without_a_word_where_torchvision_is_missing():
    """diffusers imports a processor of images that asks for it."""
    loaded = "from flc.models.folder import EMBEDDED, adapter_for; adapter_for(EMBEDDED)"
    assert said(WITHOUT_TORCHVISION + loaded) == ""
    stock = "from diffusers import WanImageToVideoPipeline"
    if Version(version("transformers")) >= Version("5.24"):  # of those that were tried, 5.3 has no such advice
        assert "requires torchvision" in said(WITHOUT_TORCHVISION + stock), "which it would say"


def test_a_model_is_read_in_no_way_that_diffusers_is_to_drop():
    """`torch_dtype` became `dtype`."""
    adapter = adapter_for(EMBEDDED)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapter.load(EMBEDDED, dtype="bfloat16").stock_pipeline(EMBEDDED, False, "bfloat16")
    assert [str(warning.message) for warning in told if "deprecated" in str(warning.message)] == []
