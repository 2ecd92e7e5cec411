"""What every registered algorithm keeps, whoever wrote it: the contract of `flc.api`.

Parametrised from the registry, so that an installed third party's algorithms are tested too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from flc.api import Batch, Budget, Query, Sample, Setting, View
from flc.data.source import drawn_clips
from flc.draws import StepDraws
from flc.errors import UserError
from flc.evaluate.clips import Clips
from flc.flow import noised
from flc.models.channels import channel_size
from flc.models.condition import Condition
from flc.options import checked
from flc.registry import INTERFACES, create, registry

C, F, H, W = 4, 3, 4, 4  # latent channels, frames, height, width
B, D = 4, 8  # samples of a batch, width of a text row


def of_kind(*kinds: str) -> list[Any]:
    return [(p.kind, p.algorithm.name) for p in registry().provided if p.kind in kinds]


def make_condition(batch: int = B, image: bool = True, seed: int = 0) -> Condition:
    g = torch.Generator().manual_seed(seed)
    text, null = torch.randn(batch, 5, D, generator=g), torch.randn(1, 1, D, generator=g)
    if not image:
        return Condition(text, null)
    return Condition(text, null, torch.randn(batch, C, 1, H, W, generator=g), torch.arange(batch) % 2 == 0)


def make_samples(count: int, seed: int = 0) -> Iterator[Sample]:
    """`count` noised clips in batches of B, the same at every call."""
    g = torch.Generator().manual_seed(seed)
    for begin in range(0, count, B):
        size = min(B, count - begin)
        x0, x1 = torch.randn(2, size, C, F, H, W, generator=g)
        t = 0.05 + 0.9 * torch.rand(size, generator=g)
        yield Sample(x0, x1, t, make_condition(size, seed=begin))


# -- every algorithm -------------------------------------------------------------------------------------------

EVERY = of_kind(*INTERFACES)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_is_a_subclass_of_its_interface(kind, name):
    assert issubclass(registry().load(kind, name), INTERFACES[kind])


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_default_options_are_valid_frozen_and_closed(kind, name):
    cls: Any = registry().load(kind, name)
    options = cls.Options()
    assert cls().options == options
    assert checked(cls.Options, options.model_dump(mode="json"), kind) == options, "a lock file's values come back"
    for field in cls.Options.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(options, field, getattr(options, field))
    with pytest.raises(UserError, match=f"unknown option {kind}.no_such_option"):
        create(kind, name, {"no_such_option": "1"})


# -- pruners ---------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """v = sum over kept blocks of a residual walk; block i has (i % 3 + 1) matrices, so blocks weigh unequally, and
    a feed-forward layer of 16 channels."""

    def __init__(self, stacks: Mapping[str, int]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stacks = nn.ModuleDict(
            {s: nn.ModuleList(nn.Sequential(*[nn.Linear(C, C) for _ in range(i % 3 + 1)], self.feed_forward())
                              for i in range(n)) for s, n in stacks.items()}
        )  # fmt: skip

    @staticmethod
    def feed_forward() -> nn.Module:
        return nn.Sequential(nn.Linear(C, 16), nn.GELU(), nn.Linear(16, C))

    def walk(
        self, x: Tensor, t: Tensor, text: Tensor, kept: Mapping[str, tuple[int, ...]] | None,
        gates: Mapping[tuple[str, int], Tensor] | None = None,
    ) -> Iterator[tuple[tuple[str, int], Tensor, Tensor]]:  # fmt: skip
        """Hidden states (B, F, H, W, C) before and after each kept block."""
        h = x.movedim(1, -1) + t.view(-1, 1, 1, 1, 1) + 0.1 * text.mean((1, 2)).view(-1, 1, 1, 1, 1)
        for stack, blocks in self.stacks.items():
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                if kept is None or i in kept[stack]:
                    gate = 1.0 if gates is None else gates[stack, i].view(-1, 1, 1, 1, 1)
                    before, h = h, h + gate * torch.tanh(block(h))
                    yield (stack, i), before, h

    def forward(self, x: Tensor, t: Tensor, text: Tensor, kept: Any = None, gates: Any = None) -> Tensor:
        *_, (_, _, h) = self.walk(x, t, text, kept, gates)
        return h.movedim(-1, 1)


class TinyPrunable:
    """`flc.api.PrunableModel` in plain torch."""

    def __init__(self, stacks: Mapping[str, int]) -> None:
        self.blocks = Blocks(stacks).requires_grad_(False)

    @property
    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {s: tuple(sum(p.numel() for p in b.parameters()) for b in bs) for s, bs in self.blocks.stacks.items()}

    @property
    def ffn(self) -> dict[str, tuple[int, int]]:
        return {s: channel_size(bs[0][-1]) for s, bs in self.blocks.stacks.items()}  # type: ignore[index]

    def feed_forward(self, stack: str, block: int) -> nn.Module:
        return self.blocks.stacks[stack][block][-1]  # type: ignore[index]

    @contextmanager
    def gradients(self, samples: Iterable[Sample], loss: Callable[[Sample, Tensor], Tensor]) -> Iterator[None]:
        self.blocks.requires_grad_(True)
        for s in samples:
            loss(s, self.velocity(s)).sum().backward()
        yield
        self.blocks.requires_grad_(False)
        for p in self.blocks.parameters():
            p.grad = None

    def inputs(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        return sample.cond.clamp(noised(sample.x0, sample.x1, sample.t)), sample.t, sample.cond.text

    def velocity(self, sample: Sample, view: View | None = None) -> Tensor:
        return self.blocks(*self.inputs(sample), view.kept if view else None) * sample.cond.free(sample.x0)

    def skip_each(
        self, sample: Sample, kept: Mapping[str, tuple[int, ...]] | None = None
    ) -> Iterator[tuple[tuple[str, int] | None, Tensor]]:
        kept = kept or {s: tuple(range(len(w))) for s, w in self.weights.items()}
        yield None, self.velocity(sample, View(kept))
        for stack, indices in kept.items():
            for i in indices:
                rest = {**kept, stack: tuple(k for k in indices if k != i)}
                yield (stack, i), self.velocity(sample, View(rest))

    def parameters_of(self, stack: str, block: int) -> Iterator[Tensor]:
        return iter(self.blocks.stacks[stack][block].parameters())  # type: ignore[index]

    def walk(self, sample: Sample) -> Iterator[tuple[tuple[str, int], Tensor, Tensor]]:
        for block, before, after in self.blocks.walk(*self.inputs(sample), None):
            yield block, before.flatten(1, 3), after.flatten(1, 3)

    def gate_gradients(self, sample: Sample, loss: Callable[[Tensor], Tensor]) -> dict[tuple[str, int], Tensor]:
        keys = [(s, i) for s, w in self.weights.items() for i in range(len(w))]
        gates = {key: torch.ones(len(sample.t), requires_grad=True) for key in keys}
        v = self.blocks(*self.inputs(sample), None, gates) * sample.cond.free(sample.x0)
        return dict(zip(keys, torch.autograd.grad(loss(v).sum(), list(gates.values())), strict=True))

    def cross_frame_attention(self, sample: Sample, queries: int) -> dict[tuple[str, int], Tensor]:
        """Shares of the right kind, for two heads: these blocks mix no tokens."""
        assert queries >= 1
        return {block: after.flatten(2).std(2).sigmoid()[:, :2] for block, _, after in self.walk(sample)}


STACKS = {"one stack": {"blocks": 6}, "two stacks": {"first": 4, "second": 5}}


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("stacks", STACKS.values(), ids=list(STACKS))
@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_a_plan_fits_the_budget(kind, name, stacks, keep):
    model = TinyPrunable(stacks)
    budget = Budget(keep, model.weights, model.ffn)
    plan = create(kind, name).plan(model, make_samples, budget)
    assert list(plan.kept) == list(model.weights) and list(plan.scores) == list(model.weights)
    for stack, blocks in plan.kept.items():
        assert isinstance(blocks, tuple) and list(blocks) == sorted(set(blocks)), "ascending, each once"
        assert all(0 <= i < stacks[stack] for i in blocks)
        assert len(plan.scores[stack]) == stacks[stack]
        assert all(isinstance(s, float) and s == s for s in plan.scores[stack]), "numbers that plan.json can hold"
    assert budget.fits(plan.kept, plan.channels)
    check_channels(plan.channels, model)
    assert any(plan.kept.values()), "an empty network is no network"
    if keep == 1:
        assert plan.kept == {s: tuple(range(n)) for s, n in stacks.items()}, "nothing has to go"


def check_channels(channels: Any, model: TinyPrunable) -> None:
    for stack, blocks in (channels or {}).items():
        total, _ = model.ffn[stack]
        assert len(blocks) == len(model.weights[stack]) and len({len(b) for b in blocks}) == 1, "one ffn_dim"
        assert all(list(b) == sorted(set(b)) and b[0] >= 0 and b[-1] < total for b in blocks)


@pytest.mark.parametrize(("kind", "name"), of_kind("pruner"))
def test_a_plan_is_repeatable_and_leaves_the_model_as_it_is(kind, name):
    """flc never seeds the global generators, so a plan that reads them would not be repeated by a lock file."""
    model = TinyPrunable({"blocks": 6})
    before = {n: p.clone() for n, p in model.blocks.named_parameters()}
    plans = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plans.append(create(kind, name).plan(model, make_samples, Budget(0.5, model.weights, model.ffn)))
    assert plans[0].kept == plans[1].kept and plans[0].scores == plans[1].scores
    assert all(torch.equal(p, before[n]) for n, p in model.blocks.named_parameters())


# -- teachers --------------------------------------------------------------------------------------------------

VIEWS, CONDITIONS = ("pruned", "unpruned"), ("text", "null")
TEACHERS = of_kind("teacher")


def velocities(composer: Any) -> dict[Query, Tensor]:
    """Exactly what the composer says it needs, in float64 so that only its formula matters."""
    g = torch.Generator().manual_seed(1)
    return {q: torch.randn(B, C, F, H, W, generator=g, dtype=torch.float64) for q in composer.needs()}


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_needs_known_queries(kind, name):
    needs = list(create(kind, name).needs())
    assert needs and all(q.view in VIEWS and q.condition in CONDITIONS and 0 <= q.adapter <= 1 for q in needs)
    assert len(needs) == len(set(needs)), "each is evaluated once"
    assert list(create(kind, name).needs()) == needs


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_is_a_pure_function_of_velocities_and_draws(kind, name):
    composer = create(kind, name)
    v = velocities(composer)
    before = {q: x.clone() for q, x in v.items()}
    torch.manual_seed(0)
    first = composer.compose(v, StepDraws(0, "distill", 7))
    torch.manual_seed(1)
    again = create(kind, name).compose(v, StepDraws(0, "distill", 7))
    assert first.shape == (B, C, F, H, W) and torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert all(torch.equal(v[q], before[q]) for q in before), "inputs are not written to"


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_leaves_a_velocity_that_all_agree_on(kind, name, step):
    """Guidance moves along differences of velocities: where there is none, every scale gives the velocity itself.
    1e-12: a few roundings of float64 (1e-16) at scales up to about ten, with room."""
    composer = create(kind, name)
    agreed = torch.randn(B, C, F, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    composed = composer.compose({q: agreed.clone() for q in composer.needs()}, StepDraws(0, "distill", step))
    torch.testing.assert_close(composed, agreed, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_uses_what_it_asks_for(kind, name):
    """A velocity that is asked for costs a forward of the whole network. At the default options each must matter."""
    composer = create(kind, name)
    v = velocities(composer)
    whole = composer.compose(v, StepDraws(0, "distill", 0))
    for query in v:
        moved = composer.compose({**v, query: v[query] + 1}, StepDraws(0, "distill", 0))
        assert not torch.allclose(moved, whole), f"{query} changes nothing"


@pytest.mark.parametrize(("kind", "name"), TEACHERS)
def test_a_teacher_treats_samples_alike(kind, name):
    """The core batches as it likes: the composition of a part is the part of the composition."""
    composer = create(kind, name)
    v = velocities(composer)
    whole = composer.compose(v, StepDraws(0, "distill", 3))
    part = composer.compose({q: x[1:3] for q, x in v.items()}, StepDraws(0, "distill", 3))
    torch.testing.assert_close(part, whole[1:3], rtol=0, atol=1e-12)  # the same float64 operations, in other batches


# -- objectives: recovery and distillers -----------------------------------------------------------------------

OBJECTIVES = of_kind("recovery", "distiller")
FULL, PRUNED = View({"blocks": (0, 1, 2, 3, 4, 5)}), View({"blocks": (0, 2, 5)})
STEPS = 200  # iterations in which every phase must have had its turn: warm-ups of the defaults are shorter


def bound(kind: str, name: str) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flc.schedule import FewStepSchedule

    objective = create(kind, name)
    schedule = None
    if kind == "distiller":
        shift = objective.shift() or 3.0
        schedule = FewStepSchedule(FlowMatchEulerDiscreteScheduler(shift=shift), 4, shift, objective.sampler)
    return objective.bind(Setting(PRUNED, FULL, 4, STEPS, schedule))


class TinyNet:
    """`flc.api.Net`."""

    def __init__(self, blocks: Blocks, kept: Any) -> None:
        self.blocks, self.kept = blocks, kept

    def __call__(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None) -> Tensor:
        assert x.shape[1:] == (C, F, H, W) and t.shape == (len(x),), "the interface of flc.api.Net"
        assert ((t >= 0) & (t <= 1)).all()
        return self.blocks(cond.clamp(x), t, cond.text, self.kept if view is None else view.kept) * cond.free(x)

    def features(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[float], view: View | None = None
    ) -> list[Tensor]:
        assert list(depths) == sorted(set(depths)) and depths[0] > 0 and depths[-1] <= 1
        kept = self.kept if view is None else view.kept
        hidden = [after.flatten(2, 3) for _, _, after in self.blocks.walk(cond.clamp(x), t, cond.text, kept)]
        return [hidden[max(1, round(depth * len(hidden))) - 1] for depth in depths]


class TinyNets:
    """`flc.api.Nets`: one small network per role, a role's own blocks only, and a fixed teacher.

    As in the core, a module of a `full` role holds its view's blocks, other roles hold all of them.
    """

    def __init__(self, roles: Mapping[str, Any]) -> None:
        self.modules = {
            name: role.head(C).requires_grad_(False) if role.train == "head" else Blocks({"blocks": 6})
            for name, role in roles.items()
        }
        for i, module in enumerate(self.modules.values()):  # roles differ, as they do after the first update
            for p in module.requires_grad_(False).parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        self.roles = roles
        self.real = Blocks({"blocks": 6}).requires_grad_(False)

    def activate(self, role: str) -> None:
        for name, module in self.modules.items():
            module.requires_grad_(name == role)

    def __getitem__(self, role: str) -> TinyNet:
        assert self.roles[role].train != "head", "a head is no velocity field: nets.head(role)"
        own = self.roles[self.roles[role].of or role]
        return TinyNet(self.modules[role], own.view.kept)

    def head(self, role: str) -> nn.Module:
        assert self.roles[role].train == "head"
        return self.modules[role]

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.real(cond.clamp(x), t, cond.text, None) * cond.free(x)


def make_batch(image: bool) -> Batch:
    x0 = torch.randn(B, C, F, H, W, generator=torch.Generator().manual_seed(4))
    cond = make_condition(image=image)
    return Batch(x0, replace(cond, first=x0[:, :, :1]) if image else cond)


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_roles_include_the_student_and_say_how_they_are_trained(kind, name):
    objective = bound(kind, name)
    roles = objective.roles()
    assert "student" in roles
    for role in roles.values():
        assert role.train in ("full", "lora", "frozen", "head", "follow") and 0 <= role.ema < 1
        assert not (role.train in ("frozen", "follow") and role.optim), "it has no optimizer"
        assert role.train != "lora" or role.rank >= 1
        assert (role.train == "head") == (role.head is not None)
        assert (role.train == "follow") == bool(role.of)
        assert not role.of or roles[role.of].train == "full", "what follows has a copy of its own to move"
    if kind == "distiller":
        assert roles["student"].view == PRUNED, "what stage III hands on is the pruned network"
        assert objective.sampler in ("sde", "ode")
    else:
        assert roles["student"].view in (FULL, View()), "stage II trains the whole network, with blocks still to go"


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_phases_name_trainable_roles_and_each_gets_its_turn(kind, name):
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        return
    roles, seen = objective.roles(), set()
    for step in range(STEPS):
        phases = objective.phases(step)
        assert phases and len(phases) == len(set(phases))
        assert phases == objective.phases(step), "a resumed run asks again"
        for phase in phases:
            assert roles[phase].optim is not None, phase
        seen |= set(phases)
    assert seen == {n for n, r in roles.items() if r.optim}, "a trained role that is never updated, or the reverse"


def first_steps(objective: Any) -> dict[str, int]:
    """The first iteration in which each phase comes."""
    first: dict[str, int] = {}
    for step in range(STEPS):
        for phase in objective.phases(step):
            first.setdefault(phase, step)
    return first


@pytest.mark.parametrize("image", [False, True], ids=["text", "given frame"])
@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_each_phase_has_a_finite_loss_that_moves_its_role_only(kind, name, image):
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        with pytest.raises(AssertionError):
            objective.loss("student", None, make_batch(image), 0, StepDraws(0, "test", 0))
        return
    nets = TinyNets(objective.roles())
    for phase, step in first_steps(objective).items():
        nets.activate(phase)
        loss = objective.loss(phase, nets, make_batch(image), step, StepDraws(0, "test", step))
        assert loss.value.ndim == 0 and torch.isfinite(loss.value), phase
        assert loss.value.requires_grad, phase
        assert all(float(v) == float(v) for v in loss.metrics.values()), loss.metrics
        loss.value.backward()
        for role, module in nets.modules.items():
            norm = sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
            assert (norm > 0) == (role == phase), f"phase {phase}: gradient {norm} into {role}"
            module.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_a_loss_is_a_function_of_its_draws(kind, name):
    """An exact resume repeats an iteration from (seed, step) alone, so nothing may come from the global generator."""
    objective = bound(kind, name)
    if not getattr(objective, "trains", True):
        return
    nets = TinyNets(objective.roles())
    for phase, step in first_steps(objective).items():
        values = []
        for seed, drawn in ((0, step), (1, step), (1, step + 1)):
            torch.manual_seed(seed)
            nets.activate(phase)
            values.append(objective.loss(phase, nets, make_batch(True), step, StepDraws(0, "test", drawn)).value.item())
        assert values[0] == values[1], "the same draws"
        assert values[0] != values[2], "other draws: the loss does use them"


@pytest.mark.parametrize(("kind", "name"), OBJECTIVES)
def test_a_head_is_made_from_its_width_and_torchs_generator_alone(kind, name):
    """The core seeds that generator, so that every rank and every start has the same head."""
    for role in bound(kind, name).roles().values():
        if role.train != "head":
            continue
        made = []
        for _ in range(2):
            torch.manual_seed(0)
            made.append(role.head(2 * C).state_dict())
        assert made[0] and all(torch.equal(made[0][n], v) for n, v in made[1].items())


# -- metrics -----------------------------------------------------------------------------------------------------


def clips_of(video: np.ndarray, captions: tuple[str, ...], given: bool) -> Clips:
    return Clips(video.astype(np.float32), captions, video[:, 0].astype(np.float32), np.full(len(video), given))


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, tuple[str, ...]]:
    pairs = list(drawn_clips(12, 9, 48, 48, seed=3))
    return np.stack([v for v, _ in pairs]), tuple(c for _, c in pairs)


SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "drawn": lambda v: v,
    "still": lambda v: np.repeat(v[:, :1], v.shape[1], 1),
    "noise": lambda v: np.random.default_rng(0).random(v.shape),
    "black": np.zeros_like,
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize(("kind", "name"), of_kind("metric"))
def test_a_metric_is_in_range_repeats_itself_and_leaves_its_clips_alone(kind, name, drawn, spoilt):
    video, captions = drawn
    for given in (True, False):
        clips = clips_of(SPOILT[spoilt](video), captions, given)
        reference = clips_of(video, captions, False)
        before = clips.video.copy(), reference.video.copy()
        one, two = (create(kind, name).score(clips, reference) for _ in range(2))
        assert 0 <= one.value <= 1 or one.value != one.value, "in [0, 1], or nan where it does not apply"
        assert one.value == two.value or (one.value != one.value and two.value != two.value)
        assert one.per_clip is None or len(one.per_clip) == len(clips)
        assert np.array_equal(clips.video, before[0]) and np.array_equal(reference.video, before[1])


# -- model families ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), of_kind("model"))
def test_a_family_counts_the_blocks_and_channels_of_every_stack_it_names(kind, name):
    cls = registry().load(kind, name)
    assert cls.stacks and cls.stacks.keys() == cls.ffn.keys()
    assert all(isinstance(v, str) and v for v in (*cls.stacks.values(), *cls.ffn.values()))
    assert not cls.recognises({"_class_name": "NoSuchPipeline"}, {"_class_name": "NoSuchTransformer3DModel"})
