"""Control: no stage II. The incoming weights go on as they are."""

from __future__ import annotations

from collections.abc import Mapping

from flc.api import Batch, Draws, Loss, Nets, RecoveryTrainer, Role


class NoRecovery(RecoveryTrainer):
    trains = False

    def roles(self) -> Mapping[str, Role]:
        return {"student": Role("full", self.setting.full)}

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        raise AssertionError("this control does not train")
