"""flc: fewer steps, fewer blocks for video diffusion transformers, in one recipe.

    run = flc.compress("out", keep=0.7, steps=4)
    flc.generate(run.pipeline, "a red circle moving left")

This module and `flc.api` import neither torch nor diffusers, so that plugins can be listed at no cost.
"""

from pluggy import HookimplMarker

from flc.entry import Run, compress, generate

__version__ = "0.1.0"

hookimpl = HookimplMarker("flc")

__all__ = ["Run", "__version__", "compress", "generate", "hookimpl"]
