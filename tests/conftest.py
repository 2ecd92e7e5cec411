"""Small models and helpers that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy threads are slower than one on a small model

from typing import Any

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """A run takes the GPU that is there; what tests expect was made on a CPU."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def adapter():
    """The embedded model, loaded once; tests must not change its weights."""
    from flc.models.folder import EMBEDDED, adapter_for

    return adapter_for(EMBEDDED).load(EMBEDDED)


@pytest.fixture
def awake():
    """`awake(model)`: with distinct random weights, frozen. Fresh gates and output layers are near zero, which would
    hide what a block does."""

    def shake(model: Any) -> Any:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
        return model.requires_grad_(False).eval()

    return shake


@pytest.fixture
def make_wan(awake):
    """`make_wan(blocks)`: a stock Wan transformer with distinct random weights, of the embedded adapter's shapes."""
    from diffusers import WanTransformer3DModel

    def make(blocks: int = 5) -> Any:
        torch.manual_seed(0)
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
            text_dim=64, freq_dim=16, ffn_dim=32, num_layers=blocks, rope_max_seq_len=32,
        )  # fmt: skip
        return awake(model)

    return make


@pytest.fixture
def wan(make_wan):
    """Of 5 blocks."""
    return make_wan()


@pytest.fixture
def make_condition():
    from flc.models.condition import Condition

    def make(batch: int, image: bool = True, seed: int = 0) -> Condition:
        g = torch.Generator().manual_seed(seed)
        text, null = torch.randn(batch, 6, 64, generator=g), torch.randn(1, 1, 64, generator=g)
        text[0, 4:] = 0
        if not image:
            return Condition(text, null)
        given = torch.arange(batch) % 2 == 0
        return Condition(text, null, torch.randn(batch, 16, 1, 4, 4, generator=g), given)

    return make
