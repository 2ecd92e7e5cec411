"""The README's first line after installation, with the CPU's own instructions and with AVX2 alone: wall time, peak
memory, where the time goes; and how long `flc --help` takes.

    python -m benchmarks.first_line

AVX2 alone is what many laptops have: the fast units of a newer CPU (AVX-512, AMX) are kept from torch and oneDNN by two
variables. That these do take them away is measured first: a bfloat16 product has nothing fast left then.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import write

COMMAND = ["compress", "--pruner", "elbo", "--distiller", "dmd", "--steps", "4", "--keep", "0.7"]
#: By name: what is set beside the environment.
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "all": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
#: Milliseconds of one product of 512 x 512 matrices by type, the median of 20, on one thread.
PRODUCTS = """
import json, statistics, time, torch
torch.set_num_threads(1)
out = {}
for name in ("float32", "bfloat16"):
    a, times = torch.randn(512, 512).to(getattr(torch, name)), []
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    out[name] = 1000 * statistics.median(times)
print(json.dumps({"milliseconds": out, "capability": torch.backends.cpu.get_cpu_capability()}))
"""


def run(arguments: list[str], folder: str, beside: dict[str, str]) -> tuple[float, float, int]:
    """Seconds, peak resident megabytes, exit code."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "flc", *arguments], cwd=folder, env=os.environ | beside, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def products(beside: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS], env=os.environ | beside, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seconds_of_stages(out: Path) -> dict[str, float]:
    """Of those that train, by their own clocks."""
    marks = {stage: json.loads((out / stage / "done.json").read_text()) for stage in ("score", "recover", "distill")}
    return {stage: mark["seconds"] for stage, mark in marks.items() if "seconds" in mark}


def measured(beside: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        seconds, megabytes, code = run(COMMAND, folder, beside)
        assert code == 0, f"flc compress ended with {code}"
        out = Path(folder) / "flc-out"
        metrics = json.loads((out / "metrics.json").read_text())
        stages = seconds_of_stages(out)
    rows = {
        row["name"]: {"average": row["average"], **{n: row["scores"][n] for n in ("distribution", "diversity")}}
        for row in metrics["rows"]
    }
    return {
        "products": products(beside),
        "minutes": seconds / 60,
        "peak_memory_gb": megabytes / 1024,
        "seconds_of_trainings": stages,
        "seed": metrics["seed"],
        "rows": rows,
    }


def processor() -> str:
    """Its model and those of its vector units that matter here."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set(re.findall(r"\S+", next((line for line in text.splitlines() if line.startswith("flags")), "")))
    units = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    name = re.search(r"model name\s*: (.*)", text)
    return f"{name[1] if name else 'unknown'} ({', '.join(units)})"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        helps = [run(["--help"], folder, {})[0] for _ in range(5)]
    kinds = {name: measured(beside) for name, beside in INSTRUCTIONS.items()}
    values = {
        "command": "flc " + " ".join(COMMAND),
        "cores": os.cpu_count(),
        "processor": processor(),
        "help_seconds": median(helps),
        "instructions": kinds,
        "minutes_avx2_over_all": kinds["avx2"]["minutes"] / kinds["all"]["minutes"],
    }
    print(write("first_line", "python -m benchmarks.first_line", values).read_text())


if __name__ == "__main__":
    main()
