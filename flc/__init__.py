"""flc: fewer steps, fewer blocks for video diffusion transformers, in one recipe.

This module and `flc.api` import neither torch nor diffusers, so that plugins can be listed at no cost.
"""

from pluggy import HookimplMarker

__version__ = "0.1.0"

hookimpl = HookimplMarker("flc")

__all__ = ["__version__", "hookimpl"]
