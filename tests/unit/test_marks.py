"""What a stage is made with is written down whole: no option is left out because it is at its default."""

from __future__ import annotations

import pytest

from flc.recipe import DistillStage, RecoverStage
from flc.run.marks import QUIET, training


@pytest.mark.parametrize("stage", [RecoverStage, DistillStage])
def test_every_option_of_a_training_is_in_its_fingerprint_but_how_it_is_saved_and_shown(stage):
    assert training(stage()).keys() == stage.model_fields.keys() - QUIET
