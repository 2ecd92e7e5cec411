"""No distillation: the incoming network, sampled by Euler steps under guidance, as the teacher is.

With `--keep 1 --recovery none --steps 50` it is the reference row, the untouched teacher; after a pruner and a
recovery, the pruned network at many steps (ICMD's row has 28).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from flc.api import Batch, Draws, Loss, Nets, Role, StepDistiller, option
from flc.api import Options as Base


class EulerSampling(StepDistiller):
    trains = False

    class Options(Base):
        guidance: float | None = option(
            None, "guidance of sampling, standard form, 1 for none; default the model's own", "ours", ge=1
        )

    def sampler(self) -> Literal["sde", "ode"]:
        return "ode"

    def guidance(self) -> float | None:
        return self.options.guidance

    def roles(self) -> Mapping[str, Role]:
        return {"student": Role("full", self.setting.pruned)}

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        raise AssertionError("this control does not train")
