"""Muon: the step of torch's, float32 products on a CPU, and matrices without a gradient at rest."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flc.api import Optim, Role
from flc.train.engine import PlainEngine
from flc.train.muon import AT_ONCE, Muon, batches, orthogonalised

SHAPES = [(24, 24), (48, 24), (24, 48), (24, 24), (7, 3)]


class Products(TorchDispatchMode):
    """The dtypes of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.split(".")[0] in ("mm", "bmm", "addmm", "baddbmm", "matmul"):
            self.dtypes |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def matrices(seed: int = 0) -> list[torch.nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=g)) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], count: int) -> None:
    g = torch.Generator().manual_seed(9)
    for _ in range(count):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()


def test_ten_steps_are_torchs_but_for_its_bfloat16():
    """torch's iterates in bfloat16, of 2^-8 relative resolution, over five products: each of its steps is within 4 %
    of the exact one, and errors of ten steps do not add up in one direction."""
    ours, theirs = matrices(), matrices()
    steps(Muon(ours, lr=0.02, weight_decay=0.1), ours, 10)
    steps(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1), theirs, 10)
    for start, a, b in zip(matrices(), ours, theirs, strict=True):
        a, b = a.detach(), b.detach()
        assert float((a - b).norm() / (b - start).norm()) < 0.04


def test_a_step_is_the_formula_in_float64():
    """Written out for one matrix, second step: float32 keeps seven digits, five products cost two of them."""
    ours = matrices()
    w, momentum = ours[1].detach().double(), torch.zeros(SHAPES[1]).double()
    steps(Muon(ours, lr=0.02, weight_decay=0.1), ours, 2)
    g = torch.Generator().manual_seed(9)
    for _ in range(2):
        gradients = [torch.randn(shape, generator=g).double() for shape in SHAPES]
        momentum = 0.95 * momentum + 0.05 * gradients[1]
        x = (0.05 * gradients[1] + 0.95 * momentum).T
        x = x / x.norm()
        for _ in range(5):
            s = x @ x.T
            x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
        w = (1 - 0.02 * 0.1) * w - 0.02 * 2**0.5 * x.T
    assert torch.allclose(ours[1].double(), w, rtol=1e-5, atol=1e-6)


def test_products_on_a_cpu_are_float32():
    """Where a CPU has no bfloat16 units those products take some twenty times as long."""
    parameters = matrices()
    with Products() as products:
        steps(Muon(parameters, lr=0.02), parameters, 1)
    assert products.dtypes == {torch.float32}


def test_a_matrix_is_orthogonalised_alike_alone_and_in_a_batch():
    """Up to the order of sums in a product, 2^-23 relative, over five products of the iteration."""
    g = torch.randn(6, 20, 30, generator=torch.Generator().manual_seed(1))
    whole = orthogonalised(g)
    assert torch.allclose(whole, torch.cat([orthogonalised(m[None]) for m in g]), rtol=0, atol=2e-5)
    values = torch.linalg.svdvals(whole)
    assert float(values.min()) > 0.67 and float(values.max()) < 1.21
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 3)), torch.zeros(2, 3, 3)), "no direction, no step"


def test_batches_are_of_one_shape_and_bounded():
    big = AT_ONCE // 1024
    some = [torch.empty(1024, big // 2, device="meta") for _ in range(5)] + [torch.empty(4, 4, device="meta")]
    assert [len(batch) for batch in batches(some)] == [2, 2, 1, 1]
    assert [len(b) for b in batches([torch.empty(2048, big, device="meta")] * 2)] == [1, 1], "one alone goes through"


@pytest.mark.parametrize(("blocks", "dtype"), [(5, torch.float32), (40, torch.bfloat16)])
def test_a_skipped_block_rests_under_muon_and_has_zero_gradients_under_adamw(miniature, tmp_path, blocks, dtype):
    """At p = .5 in each of eight iterations. A matrix of a skipped block is the same after the iteration, bit for bit,
    and that of one that ran is not; a vector of a skipped block goes as torch's AdamW moves it for a gradient of
    zeros: by decay and by what is left of its momentum."""
    m = miniature("bernoulli-muon", dtype=dtype, blocks=blocks, p=0.5, draw="block", warmup=0, lr=1e-3, ema=0)
    masters, ran = m.engine.masters["student"], []
    shadow = {n: copy.deepcopy(p) for n, p in masters.items() if n.endswith("norm2.weight")}
    twin = torch.optim.AdamW(shadow.values(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    states, step = [{n: p.detach().clone() for n, p in masters.items()}], m.engine.step

    def stepped(role, factor):
        reached = {n for n, p in m.engine.parameters[role].items() if p.grad is not None}
        ran.append({int(n.split(".")[1]) for n in reached if n.startswith("blocks.")})
        norm = torch.stack([p.grad.float().norm() for p in m.engine.parameters[role].values() if p.grad is not None])
        scale = min(1.0, 1.0 / (float(norm.norm()) + 1e-6))  # the clip of 1
        for name, p in shadow.items():
            grad = m.engine.parameters[role][name].grad
            p.grad = torch.zeros_like(p) if grad is None else grad.float() * scale
        value = step(role, factor)
        twin.step()
        states.append({n: p.detach().clone() for n, p in masters.items()})
        return value

    m.engine.step = stepped
    m.run(tmp_path, 8, save_every=0)
    skipped = [set(range(blocks)) - r for r in ran]
    assert any(skipped) and not all(skipped[0] == s for s in skipped), "the draws differ"
    for i, (before, after) in enumerate(pairwise(states)):
        for name, value in before.items():
            if name.startswith("blocks.") and value.ndim == 2:
                still = torch.equal(value, after[name])
                assert still == (int(name.split(".")[1]) in skipped[i]), (i, name)
    assert shadow
    for name, p in shadow.items():
        assert torch.allclose(masters[name], p, rtol=1e-5, atol=1e-7), name


def test_a_resumed_run_with_skipped_blocks_is_bit_equal(miniature, tmp_path):
    """A matrix that no iteration has reached has no state yet, and gets none from a checkpoint."""
    whole, first, second = (miniature("bernoulli-muon", p=0.5, draw="block") for _ in range(3))
    whole.run(tmp_path / "whole", 6)
    first.run(tmp_path / "cut", 2)
    second.run(tmp_path / "cut", 6)
    a, b = whole.weights(), second.weights()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []


def test_muon_moves_the_familys_blocks_and_not_other_layers_that_are_called_so():
    """HunyuanVideo's text refiner has `refiner_blocks`, of which no view takes one away."""
    from diffusers import HunyuanVideoTransformer3DModel

    from flc.models.hunyuan import HunyuanAdapter

    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=8, pooled_projection_dim=6, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    role = Role("full", optim=Optim(1e-3, matrices=0.01))
    engine = PlainEngine({"student": model}, {"student": role}, stacks=HunyuanAdapter.stacks)
    (_, others), (optimizer, moved) = engine.optimizers["student"]
    assert isinstance(optimizer, Muon)
    assert {n.split(".")[0] for n in moved} == {"transformer_blocks", "single_transformer_blocks"}
    refiner = [n for n in others if ".refiner_blocks." in n and model.get_parameter(n).ndim == 2]
    assert len(refiner) > 4, "the refiner's matrices are AdamW's"


def test_an_adapters_matrices_are_adamws():
    layer = SimpleNamespace(
        named_parameters=lambda: [("blocks.0.q.lora_A.flc.weight", torch.nn.Parameter(torch.eye(3)))]
    )
    role = Role("lora", optim=Optim(1e-3, matrices=0.01), rank=3)
    engine = PlainEngine({"fake": layer}, {"fake": role}, stacks=("blocks",))
    assert [type(optimizer) for optimizer, _ in engine.optimizers["fake"]] == [torch.optim.AdamW]
