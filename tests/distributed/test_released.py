"""What an engine leaves behind when it is closed: nothing of a large network may stay under the stage that follows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def held() -> int:
    """Bytes of all tensors that anything can reach."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def train_and_close(zero: int) -> tuple[float, float]:
    """Bytes a parameter of one iteration in bfloat16, before the engine is closed, and after."""
    from flc.api import Optim, Role
    from flc.train.deepspeed import DeepSpeedEngine

    def network() -> nn.Module:
        layers = (nn.Linear(512, 512, bias=False) for _ in range(4))
        return nn.Sequential(*layers).to(torch.bfloat16).requires_grad_(False)

    count = 4 * 512**2
    roles = {"student": Role("full", optim=Optim(1e-4), ema=0.9), "teacher": Role("frozen")}
    modules = {"student": network(), "teacher": network()}
    engine = DeepSpeedEngine(modules, roles, zero, 2)
    engine.activate("student")
    x = torch.randn(2, 512, dtype=torch.bfloat16)
    engine.backward("student", engine.call("student")(x).float().pow(2).mean())
    engine.step("student")
    during = held()
    engine.close()
    del engine, modules
    return during / count, held() / count


@pytest.mark.parametrize("zero", [2, 3])
def test_a_closed_engine_holds_nothing(zero):
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.distributed.test_released", str(zero)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    during, after = map(float, done.stdout.split()[-2:])
    # both networks' weights 4, moments 8, masters 4, an average 4
    assert during > 19 and after < 0.1, (during, after)


if __name__ == "__main__":
    from flc.train.deepspeed import initialise, leave

    initialise("cpu")
    print(*train_and_close(int(sys.argv[1])))
    leave(0)
