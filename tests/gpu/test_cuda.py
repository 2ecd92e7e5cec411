"""On a GPU (`pytest -m gpu`; not run by CI): the CPU's velocities, and a whole run in miniature."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from flc.models.folder import EMBEDDED, adapter_for
from tests.cli.small import ENVIRONMENT, command

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine"),
]


def test_velocities_are_those_of_the_cpu(adapter):
    there = adapter_for(EMBEDDED).load(EMBEDDED, DEVICE)
    shape = adapter.latent_shape(*adapter.size_of(EMBEDDED))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.8])
    prompts = ["a red circle moving left", "a blue square moving up"]
    found = []
    for each in (adapter, there):
        cond = each.condition(prompts)
        with torch.no_grad():
            v = each.velocity(each.transformer, each.transformer, x.to(each.device), t.to(each.device), cond)
        found.append(v.cpu())
    # float32 sums in another order; TF32 is off in torch for matrix products unless asked for
    assert (found[0] - found[1]).abs().max() < 1e-3 * found[0].abs().max()


def test_a_run_in_bfloat16_ends_in_a_finite_student(tmp_path):
    program = command(tmp_path / "out", "--device", DEVICE, "--dtype", "bfloat16")
    done = subprocess.run(program, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert [row["name"] for row in rows][-1] == "student"
    weights = load_file(tmp_path / "out" / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for n, w in weights.items() if n.endswith("attn1.to_q.weight")} == {torch.bfloat16}
    assert all(w.isfinite().all() for w in weights.values())
