"""A whole run that takes half a minute: every stage, in miniature."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SMALL = {
    "prepare.clips": 32, "pruner.samples": 8, "recover.iterations": 6, "recover.batch": 4, "recover.save_every": 2,
    "distill.iterations": 8, "distill.batch": 4, "distill.save_every": 2, "distill.check_every": 4,
    "distiller.fake_warmup": 2, "distiller.ratio": 2, "evaluate.clips": 8, "evaluate.reference": 16,
    "evaluate.teacher_steps": 2, "evaluate.videos": 2,
}  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(out: Path, *extra: str, stage: str = "compress") -> list[str]:
    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "flc", stage, "--out", str(out), *sets, *extra]
