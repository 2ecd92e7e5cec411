"""What can be refused of a suite's options before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flc.errors import UserError
from flc.evaluate import lpips
from flc.evaluate.manifest import check_captions, read_manifest
from flc.evaluate.vbench import INSTALL, python_of
from flc.evaluate.vbench_layout import FOLDERS, check_names, read_info
from flc.recipe import EvaluateStage


def check_options(o: EvaluateStage, warn: Callable[[str], None]) -> None:
    """`UserError` for what is missing or wrong; a warning for what has no effect."""
    asked = read_manifest(Path(o.manifest)) if o.manifest else []
    if o.suite == "shapes":
        check_captions(asked)
        for name in ("vbench_python", "vbench_data", "fps"):
            if getattr(o, name):
                warn(f"evaluate.{name} has no effect with evaluate.suite=shapes")
    else:
        check_names(asked)
        if not asked and not o.vbench_data:
            text = f"--set evaluate.vbench_data={FOLDERS[o.suite]} of a VBench checkout, or --manifest"
            raise UserError(f"--suite {o.suite} needs VBench's prompts: {text}")
        if not asked:
            read_info(Path(o.vbench_data or ""), o.suite)
        elif o.vbench_data:
            warn("evaluate.vbench_data has no effect with a manifest")
        python = python_of(o)
        if python and not python.is_file():
            raise UserError(f"evaluate.vbench_python={python} does not exist: {INSTALL}")
    if o.lpips:
        lpips.check(o.lpips)
        absent = [row for row in lpips.ROWS if o.rows and row not in o.rows]
        if absent:
            raise UserError(f"evaluate.lpips compares {' with '.join(lpips.ROWS)}: add {absent[0]} to evaluate.rows")
