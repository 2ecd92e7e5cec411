"""The README's first line after installation: wall time, peak memory, and how long `flc --help` takes.

python -m benchmarks.first_line
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.common import write

COMMAND = ["compress", "--pruner", "elbo", "--distiller", "dmd", "--steps", "4", "--keep", "0.7"]


def run(arguments: list[str], folder: str) -> tuple[float, float, int]:
    """Seconds, peak resident megabytes, exit code."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "flc", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        helps = [run(["--help"], folder)[0] for _ in range(5)]
        seconds, megabytes, code = run(COMMAND, folder)
        assert code == 0, f"flc compress ended with {code}"
        metrics = json.loads((Path(folder) / "flc-out" / "metrics.json").read_text())
    values = {
        "command": "flc " + " ".join(COMMAND),
        "cores": os.cpu_count(),
        "minutes": seconds / 60,
        "peak_memory_gb": megabytes / 1024,
        "help_seconds": median(helps),
        "seed": metrics["seed"],
        "rows": {
            row["name"]: {"average": row["average"], **{n: row["scores"][n] for n in ("distribution", "diversity")}}
            for row in metrics["rows"]
        },
    }
    print(write("first_line", "python -m benchmarks.first_line", values).read_text())


if __name__ == "__main__":
    main()
