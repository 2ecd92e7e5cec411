"""The interfaces an algorithm implements. A plugin imports from here and from the pure rooms
(`flc.flow`, `flc.losses`, `flc.rollout`, `flc.matching`) only.

An algorithm never sees an optimizer, device, rank, logger or checkpoint: it asks for velocities and
returns numbers; the core decides how they are computed. Shapes: B samples, C latent channels, F latent
frames, H and W latent height and width. Times t are in [0, 1], `x_t = (1-t) x0 + t x1`, `v = x1 - x0`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager as ContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic import Field as _Field

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flc.evaluate.clips import Clips
    from flc.models.condition import Condition

API = 1

Kind = Literal["pruner", "recovery", "distiller", "teacher", "quantizer", "model", "metric"]


@dataclass(frozen=True)
class Algorithm:
    """One record of the registry. `target` is imported only when the algorithm is used.

    Example::

        Algorithm("elbo", "my_package.elbo:ElboPruner", "Skip each block, rank by error", "arXiv:2603.01685")
    """

    name: str
    target: str
    summary: str
    paper: str = ""
    api: int = API


MOST = 1_000_000


def option(default: Any, about: str, source: str, unit: str = "", program: bool = False, **bounds: Any) -> Any:
    """A field of `Options`: what it is, its unit, bounds (`ge`, `gt`, `le`, `lt`), and where the default is from.

    `source` names a paper's equation or table, a code base, or says "ours"; `flc show` prints it. `program`: the option
    names something that is run. It is taken from the command line alone, since recipes come from strangers too. A whole
    number that has no upper bound has `MOST`: what counts further takes memory by itself, and is a slip.
    """
    if type(default) is int and not {"le", "lt"} & bounds.keys():
        bounds["le"] = MOST
    extra: Any = {"source": source, "unit": unit, "program": program}
    return _Field(default, description=about, json_schema_extra=extra, **bounds)


def _averages(betas: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError("both should be at least 0 and less than 1")
    return betas


Betas = Annotated[tuple[float, float], AfterValidator(_averages)]
"""Option: decays of Adam's two moments."""


class Options(BaseModel):
    """Base of every algorithm's nested `Options`: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def unused(self) -> tuple[str, ...]:
        """Names of those that change nothing beside the others: who sets one is told so."""
        return ()


class Configured:
    """What every algorithm has: its options. Subclasses nest their own `Options`."""

    Options: ClassVar[type[BaseModel]] = Options

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options


# ---------------------------------------------------------------------------------------------------------
# Views and networks


Kept = Mapping[str, tuple[int, ...]]
"""Kept block indices per stack, ascending: `{"blocks": (0, 1, 4)}`."""


Channels = Mapping[str, Sequence[Sequence[int]]]
"""Channels of the feed-forward layers that stay, ascending: per stack, of every block of the unpruned network. All of a
stack keep one number of them, because a stock config has one `ffn_dim`: `{"blocks": ((0, 2), (1, 3), (0, 1))}`."""


@dataclass(frozen=True)
class View:
    """A sub-network of one set of weights: the kept blocks of each stack, and the scale of a LoRA adapter.

    `kept=None` keeps every block; `adapter` multiplies the low-rank branch, 0 switches it off.
    """

    kept: Kept | None = None
    adapter: float = 0.0


class Net(Protocol):
    """A velocity field the core evaluates: `net(x_t, t, cond)`, optionally through another view."""

    def __call__(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None, /) -> Tensor:
        """x (B, C, F, H, W), t (B,) in [0, 1]. Rows given by the condition are clamped before and 0 after."""

    def features(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[float], view: View | None = None, /
    ) -> list[Tensor]:
        """Hidden states (B, F', N, D) after the given shares of the blocks, F' latent frames of N tokens.

        `depths` in (0, 1], ascending; .5 is after the first half of the view's blocks, which are counted over all
        stacks in their order. Later blocks do not run.
        """


class Nets(Protocol):
    """The networks of one objective, by role."""

    def __getitem__(self, role: str) -> Net: ...

    def head(self, role: str) -> Callable[..., Tensor]:
        """The module of a `head` role, called as its `forward` is."""

    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The composed velocity of the `TeacherComposer`, without gradient."""


class Draws(Protocol):
    """Randomness of one iteration, a function of (seed, step) alone: a resumed or sharded run repeats it.

    `normal` and `uniform` are per sample (each rank holds its slice of the global draw); the others are the
    same on every rank, as ZeRO-3 needs for anything that decides which blocks run.
    """

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise, of `like`'s shape (B, ...), type and device; B is this rank's share of the batch."""

    def uniform(self, batch: int) -> Tensor:
        """(B,) in [0, 1), stratified over the whole batch; `batch` is this rank's B."""

    def shared_uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""

    def shared_integer(self, stop: int) -> int:
        """One of 0 ... stop - 1."""

    def shared_bernoulli(self, p: float, count: int) -> list[bool]:
        """`count` draws, each true with probability `p`."""


# ---------------------------------------------------------------------------------------------------------
# Pruner


@dataclass(frozen=True)
class Budget:
    """How much may stay: `keep`, a share of the block parameters `weights` (per stack, per block).

    `ffn`: per stack, how many channels a block's feed-forward layer has, and how many parameters each stands for.
    """

    keep: float
    weights: Mapping[str, tuple[int, ...]]
    ffn: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def share(self, kept: Kept, channels: Channels | None = None) -> float:
        """The share of block parameters that stays of these blocks with these channels."""
        stays = 0
        for stack, blocks in kept.items():
            for i in blocks:
                gone = 0 if channels is None else self.ffn[stack][0] - len(channels[stack][i])
                stays += self.weights[stack][i] - (gone * self.ffn[stack][1] if gone else 0)
        return stays / sum(map(sum, self.weights.values()))

    def fits(self, kept: Kept, channels: Channels | None = None) -> bool:
        """Whether no more than `keep` stays."""
        return self.share(kept, channels) <= self.keep * (1 + 1e-9)

    def at_random(self, rng: Draws, removable: Kept) -> dict[str, tuple[int, ...]]:
        """The blocks that stay when some of the `removable` ones go, drawn one at a time until the rest fits; one of
        each stack stays."""
        kept: dict[str, tuple[int, ...]] = {s: tuple(range(len(w))) for s, w in self.weights.items()}
        left = [(stack, i) for stack, blocks in removable.items() for i in blocks]
        while left and not self.fits(kept):
            stack, i = left.pop(rng.shared_integer(len(left)))
            if len(kept[stack]) > 1:
                kept[stack] = tuple(j for j in kept[stack] if j != i)
        return kept

    def select(
        self, scores: Mapping[str, Sequence[float]], channels: Channels | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Drop the lowest-scored blocks, one at a time, until the rest fits; one of each stack stays."""
        kept: dict[str, tuple[int, ...]] = {s: tuple(range(len(w))) for s, w in self.weights.items()}
        order = sorted((score, s, i) for s, values in scores.items() for i, score in enumerate(values))
        for _, stack, i in order:
            if self.fits(kept, channels):
                break
            if len(kept[stack]) > 1:
                kept[stack] = tuple(j for j in kept[stack] if j != i)
        return kept


@dataclass(frozen=True)
class PrunePlan:
    """What a pruner decided, and why. `scores` per stack and block, higher is more important; `channels` where the
    feed-forward layers become narrower, too."""

    kept: dict[str, tuple[int, ...]]
    scores: dict[str, list[float]]
    details: dict[str, Any] = field(default_factory=dict)
    channels: Channels | None = None


@dataclass(frozen=True)
class Sample:
    """A batch of noised real clips: clean latents x0, noise x1, times t (B,), condition; `x_t` is derived."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    cond: Condition


class PrunableModel(Protocol):
    """A model as a pruner sees it."""

    @property
    def weights(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters of each block, per stack."""

    @property
    def sigmas(self) -> Sequence[float]:
        """The times at which the few-step student will be asked, falling, from 1; for a pruner that
        `reads_schedule`, else none."""

    def velocity(self, sample: Sample, view: View | None = None) -> Tensor:
        """v (B, C, F, H, W) in float32, without gradient, through the whole network or a view of it."""

    def skip_each(self, sample: Sample, kept: Kept | None = None) -> Iterator[tuple[tuple[str, int] | None, Tensor]]:
        """Velocities with each block of `kept` skipped in turn, in one sweep; first (None, nothing skipped)."""

    def parameters_of(self, stack: str, block: int) -> Iterator[Tensor]:
        """The weights of one block."""

    def each_block(
        self, sample: Sample, measure: Callable[[Tensor, Tensor], Tensor]
    ) -> Mapping[tuple[str, int], Tensor]:
        """(B, ...) each: measure(before, after) of every block of the whole network, where `measure` turns the hidden
        states (b, tokens, D) of some of the sample's clips that enter and leave a block into (b, ...). They are
        gigabytes on a large model, and gone once they are measured."""

    def gate_gradients(
        self, sample: Sample, loss: Callable[[Sample, Tensor], Tensor]
    ) -> Mapping[tuple[str, int], Tensor]:
        """(B,) each: d loss(s, v).sum() / dg at g = 1, where block i returns h + g_i (block_i(h) - h); `loss` turns
        velocities of some of the sample's clips, s, into one number per clip."""

    def feed_forward(self, stack: str, block: int) -> nn.Module:
        """The layer that maps (..., D) to itself, token by token, through its channels: made by its first linear
        layer, taken by its last."""

    def gradients(self, samples: Iterable[Sample], loss: Callable[[Sample, Tensor], Tensor]) -> ContextManager[None]:
        """A context in which the blocks' parameters hold, in `.grad`, the sum over samples of d loss(s, v).sum();
        `loss` turns velocities into one number per clip (B,)."""

    def cross_frame_attention(self, sample: Sample, queries: int) -> Mapping[tuple[str, int], Tensor]:
        """(B, heads) each: share of self-attention that leaves the query's own latent frame, mean over `queries`
        tokens evenly spaced over the clip, divided by (F-1)/F: 1 for uniform attention."""


class Pruner(Configured, ABC):
    """Decides which blocks stay; the core applies it.

    Example, a complete pruner::

        class EveryOther(Pruner):
            def plan(self, model, batches, budget):
                scores = {s: [float(i % 2 == 0) for i in range(len(w))] for s, w in model.weights.items()}
                return PrunePlan(budget.select(scores), scores)
    """

    @abstractmethod
    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        """`batches(n)` yields n noised real clips in batches, the same ones at every call."""

    def after(self) -> int:
        """How many iterations of stage II come before `plan`, which is then given the network that they leave. In each
        of them random blocks of `removable` are away, as many as the budget asks for. They count as stage II's own,
        which goes on from there and is shorter by as many."""
        return 0

    def removable(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> Kept:
        """Of the network before those iterations: which blocks may be away in them; the budget must be met without all
        of these."""
        return {stack: tuple(range(len(w))) for stack, w in model.weights.items()}

    def reads_schedule(self) -> bool:
        """Whether `plan` reads `model.sigmas`; a plan is made again with another schedule then."""
        return False


# ---------------------------------------------------------------------------------------------------------
# Objectives: what a trainable stage minimises


@dataclass(frozen=True)
class Optim:
    """AdamW's settings for one role; with `matrices`, Muon's rate, Muon moves the weight matrices of the family's
    stacks in its place (of full roles, under the plain engine)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    matrices: float = 0.0


@dataclass(frozen=True)
class Role:
    """One network of an objective.

    - `view`: which blocks of the incoming weights it holds; blocks outside it are removed for good.
    - `train`: `full`, its own trained copy; `lora`, an adapter on the frozen incoming weights; `frozen`, those weights,
      or, with all blocks, the unpruned network where that is one of its own (a plan narrowed the incoming weights, or
      stage III's teacher is asked of the original); `head`, a trained module of the algorithm's own, which
      `head(width)` makes for hidden states of that width (zeros and draws of torch's global generator only: the core
      seeds it); `follow`, the moving average of the full role `of`.
    - `ema`: decay of the averaged weights that the stage hands on, 0 for none; of a follower, its average's.
    - `passes`: gradients go through this frozen network to its input (a GAN on its features): it is never sharded.
    - `depths` of a head: after which shares of the whole network's blocks it looks, each another block.
    """

    train: Literal["full", "lora", "frozen", "head", "follow"]
    view: View = View()
    optim: Optim | None = None
    ema: float = 0.0
    rank: int = 0
    head: Callable[[int], nn.Module] | None = None
    of: str = ""
    passes: bool = False
    depths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and detached numbers for the log."""

    value: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What an objective is told about its task."""

    pruned: View
    full: View
    steps: int
    """Few-step count of the student."""
    iterations: int
    schedule: Any = None
    """`flc.schedule.FewStepSchedule` that training and deployment share; None in recovery."""
    given_share: float = 0.5
    """Share of training samples with a given first frame, where the family has one."""
    draw: Callable[[Draws], View] | None = None
    """In the iterations of stage II before the blocks are chosen: the sub-network of an iteration. `pruned` is then no
    more than the removal that looked cheapest before them."""


@dataclass(frozen=True)
class Batch:
    """Real clips: clean latents x0 (B, C, F, H, W) and their condition."""

    x0: Tensor
    cond: Condition


class Objective(Configured, ABC):
    """What one trainable stage minimises, and with which networks.

    `roles()` names them; the role `student`, trained in full, is what the stage hands on. `phases(step)` lists the
    roles updated in iteration `step`, in order. `loss(phase, ...)` may use any network; only the parameters of the
    role `phase` receive a gradient.
    """

    setting: Setting
    zero: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """ZeRO stages under which it trains with deepspeed."""
    compares: ClassVar[int] = 1
    """Clips that a rank must take at once for every term of its loss to say something."""

    def bind(self, setting: Setting) -> Objective:
        """Tell the objective its task; called once by the core before anything else."""
        self.setting = setting
        return self

    @abstractmethod
    def roles(self) -> Mapping[str, Role]:
        """Its networks by name, `student` among them; the same at every call."""

    def phases(self, step: int) -> tuple[str, ...]:
        """The trained roles updated in iteration `step`, in order; a function of `step` alone."""
        return ("student",)

    def updates(self, iterations: int) -> int:
        """How often the student is updated in so many iterations."""
        return sum("student" in self.phases(step) for step in range(iterations))

    @abstractmethod
    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        """The scalar that the role `phase` descends in iteration `step`. One that is not finite ends the run before
        the optimizer moves (`flc.errors.NonFinite`). `rng` is one object in all phases of an iteration, with this batch
        or this part of one, and another in the next."""


class RecoveryTrainer(Objective):
    """Stage II: make the pruned network work again (`bernoulli`, `none`, ...). It trains and hands on the whole one,
    `setting.full`, so that it also works as it was; calls may leave blocks out."""

    trains: ClassVar[bool] = True
    """False for a control that hands the incoming weights on untouched."""
    draws: ClassVar[bool] = False
    """Whether it trains the sub-networks of `setting.draw` where there is one, which a pruner with `after` asks for."""

    rare: ClassVar[str] = "other options of it"
    """What the user may change where the pruned network itself is trained too rarely."""

    def pruned_iterations(self) -> float | None:
        """In how many of `setting.iterations` the pruned network itself is trained, in the mean over draws; None of a
        trainer that does not say. A closed form of options, blocks and iterations: no network is there yet."""
        return None

    def real(self) -> Literal["original", "recovered"]:
        """What stage III's teacher takes for the unpruned network where `distill.real` does not say, by the options
        alone: the model's own network, or the one that this stage hands on, with all its blocks."""
        return "original"


class StepDistiller(Objective):
    """Stage III: turn the pruned network, `setting.pruned`, into a few-step generator (`dmd`, ...)."""

    trains: ClassVar[bool] = True
    """False for a control that hands the incoming weights on untouched."""

    def sampler(self) -> Literal["sde", "ode"]:
        """How the student moves from one step to the next: sde renoises its clean clip, ode takes Euler's step."""
        return "sde"

    def guidance(self) -> float | None:
        """Standard-form scale at which the student is sampled, 1 for none; None takes the model's own."""
        return 1.0

    def shift(self) -> float | None:
        """Timestep shift of the few-step schedule; None takes the model's own."""
        return None


# ---------------------------------------------------------------------------------------------------------
# Teacher


@dataclass(frozen=True)
class Query:
    """One velocity a teacher needs: which network, under which condition.

    - `view`: `pruned` or `unpruned`.
    - `condition`: `text`, as given; `null`, the text replaced by the empty prompt, a given first frame kept.
    - `adapter`: scale of the low-rank branch that a LoRA role trains on these weights; 0 without it.
    """

    view: Literal["pruned", "unpruned"]
    condition: Literal["text", "null"] = "text"
    adapter: float = 0.0


class TeacherComposer(Configured, ABC):
    """Composes the real velocity of distribution matching from velocities of the frozen network.

    Example, a complete composer (standard-form CFG with scale 4 on the unpruned network)::

        class Fixed(TeacherComposer):
            def needs(self):
                return Query("unpruned"), Query("unpruned", "null")

            def compose(self, v, rng):
                text, null = (v[q] for q in self.needs())
                return null + 4.0 * (text - null)
    """

    @abstractmethod
    def needs(self) -> Sequence[Query]:
        """The velocities that `compose` is given; each costs an evaluation of the network."""

    @abstractmethod
    def compose(self, v: Mapping[Query, Tensor], rng: Draws) -> Tensor:
        """A pure function of the velocities, each (B, C, F, H, W)."""


# ---------------------------------------------------------------------------------------------------------
# Quantizer, model adapter, metric


class Quantizer(Configured, ABC):
    """Fewer bits for the weights of a finished student."""

    @abstractmethod
    def quantize(self, model: Any, batches: Callable[[int], Iterator[Sample]]) -> Any:
        """The quantized module, in place or new; `batches(n)` yields samples on the student's own trajectory."""


@dataclass(frozen=True)
class Score:
    """A metric's value in [0, 1], higher is better (NaN: does not apply), with one value per clip if it has."""

    value: float
    per_clip: Any = None
    note: str = ""


class Metric(Configured, ABC):
    """A measure of generated clips against drawn or real ones, in [0, 1], higher is better.

    The average is over a fixed list, `flc.evaluate.metrics.AVERAGE`; every other metric stands beside it.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abstractmethod
    def score(self, clips: Clips, reference: Clips) -> Score:
        """Of generated clips (N, frames, height, width, 3) in [0, 1] and drawn or real ones to compare with. What it
        raises, and a value outside [0, 1], is n/a in the table, with its cause."""
