"""What every benchmark shares: how a result is written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """The commit measured: the last one of anything but results; with a mark when the tree held anything else."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = [line for line in git("status", "--porcelain").splitlines() if "benchmarks/results" not in line]
    last = git("log", "-1", "--abbrev=12", "--format=%h", "--", ".", ":(exclude)benchmarks/results")
    return last + ("+changes" if changed else "")


def made_by(script: str) -> dict[str, Any]:
    """What every result begins with."""
    from flc.evaluate.suite import hardware
    from flc.recipe import versions

    return {"script": script, "commit": commit(), "hardware": hardware(), "versions": versions()}


def write(name: str, script: str, values: dict[str, Any]) -> Path:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made_by(script) | values, indent=1) + "\n")
    return path


def worth_writing(values: dict[str, Any], name: str) -> bool:
    """Whether a table has a row that did not fail; one of failures alone takes no finished one's place."""
    return any("average" in row for row in values["rows"].values()) or not (RESULTS / f"{name}.json").exists()


def spread(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation over seeds."""
    return {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else 0.0, "n": len(values)}
