"""One schedule from training to deployment.

A few-step student is ruined by other timesteps than it was trained on, so the trainer reads its sigmas
from the very scheduler object that export writes into the pipeline folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flc.errors import UserError

Sampler = Literal["sde", "ode"]


@dataclass(frozen=True)
class Walk:
    """A stock diffusers scheduler and the number of steps that it takes."""

    scheduler: Any
    steps: int
    grid: Sequence[float] | None = None
    """Sigmas that the family's stock pipeline hands to the scheduler; None where it only says how many steps."""

    def begin(self, device: Any = None) -> None:
        """As the stock pipeline sets out."""
        asked = {"num_inference_steps": self.steps} if self.grid is None else {"sigmas": list(self.grid)}
        self.scheduler.set_timesteps(**asked, device=device)
        self.scheduler.set_begin_index(0)


@dataclass(frozen=True, kw_only=True)
class FewStepSchedule(Walk):
    """A walk with the step count that a student is trained for, and how it moves.

    sampler  sde: x0-then-renoise; ode: Euler. `shift` is k of the timestep shift.
    """

    shift: float
    sampler: Sampler
    sigmas: tuple[float, ...] = field(init=False)
    """`steps` sigmas as the stock pipeline gets them, and the final 0."""

    def __post_init__(self) -> None:
        self.begin()
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.scheduler.sigmas))
        assert len(self.sigmas) == self.steps + 1, self.sigmas
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if not falling or abs(self.sigmas[0] - 1) > 1e-3:  # the nearest that the scheduler's table of 1000 may be
            raise UserError(f"a shift of {self.shift:g} over {self.steps} steps leaves no schedule from noise to clip: "
                            f"sigmas {[round(s, 4) for s in self.sigmas]}")  # fmt: skip

    def declaration(self) -> dict[str, Any]:
        """What a student's folder says about itself."""
        return {"steps": self.steps, "shift": self.shift, "sampler": self.sampler, "sigmas": list(self.sigmas)}
