"""Two ranks that share the clips of a batch measure what one process measures.

This file is the test and, under torchrun, the ranks' program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flc.api import Sample, View
from flc.losses import flow_error
from flc.models.condition import Condition
from flc.models.prunable import Prunable
from flc.models.spread import Spread
from flc.models.wan import WanAdapter

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SIZES = (4, 3, 1)
"""Clips of a batch: an even share, a smaller last one, and one clip for two ranks."""


def model(spread: Spread) -> Prunable:
    """A stock Wan transformer of 4 blocks with distinct random weights."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    adapter: Any = WanAdapter()
    adapter.pipe = SimpleNamespace(config=SimpleNamespace(expand_timesteps=True))
    transformer: Any = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=4, rope_max_seq_len=32,
    )  # fmt: skip
    with torch.no_grad():
        for p in transformer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    adapter.pipe.transformer = adapter.prepare(transformer.requires_grad_(False).eval())
    return Prunable(adapter, adapter.pipe.transformer, spread=spread)


def sample(size: int) -> Sample:
    g = torch.Generator().manual_seed(size)
    x0, x1 = torch.randn(2, size, 4, 3, 4, 4, generator=g)
    text, null = torch.randn(size, 6, 8, generator=g), torch.randn(1, 1, 8, generator=g)
    given = torch.arange(size) % 2 == 0
    return Sample(x0, x1, torch.rand(size, generator=g), Condition(text, null, x0[:, :, :1], given))


def measured(spread: Spread) -> dict[str, Tensor]:
    """All that a pruner can ask for, by name."""
    found, prunable, kept = {}, model(spread), {"blocks": (0, 2, 3)}
    for size in SIZES:
        s = sample(size)
        found[f"{size}.velocity"] = prunable.velocity(s, View(kept))
        for key, v in prunable.skip_each(s, kept):
            found[f"{size}.without.{key}"] = v
        hidden = prunable.each_block(s, lambda before, after: after - before)
        found |= {f"{size}.block.{key}": v for key, v in hidden.items()}
        found |= {f"{size}.gate.{key}": v for key, v in prunable.gate_gradients(s, flow_error).items()}
        found |= {f"{size}.attention.{key}": v for key, v in prunable.cross_frame_attention(s, 8).items()}
        found[f"{size}.x0"] = torch.tensor([prunable.x0_error([s])])
    with prunable.gradients(map(sample, SIZES), flow_error):
        for i in range(4):
            for number, p in enumerate(prunable.parameters_of("blocks", i)):
                assert p.grad is not None
                found[f"gradient.{i}.{number}"] = p.grad.clone()
    return found | {"evaluations": torch.tensor([prunable.evaluations])}


def rank_main(folder: Path) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = measured(Spread(rank, dist.get_world_size()))
    save_file({k: v.contiguous() for k, v in found.items()}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def test_two_ranks_measure_what_one_process_does_and_both_have_all_of_it(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    done = subprocess.run(
        [*command, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    expected = measured(Spread())
    assert first.keys() == second.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), "what ranks decide by it is the same"
        # float32 sums in batches of another size
        assert first[name].shape == value.shape, name
        assert torch.allclose(first[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max())), name


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]))
