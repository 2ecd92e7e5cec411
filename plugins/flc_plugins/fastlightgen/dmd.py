"""Fine-grained distribution matching (FastLightGen, arXiv:2603.01685, Eq 8), stage III.

    grad_phi L = -E_t [ (t v_fake(x_t, t) - t v_real(x_t, t)) dG_phi / dphi ]

G_phi, v_fake and v_real as in `flc.matching`; v_real is the frozen network under the composed guidance of Eq 9
(`--teacher well-guided`). G and v_fake start from v_pruned; Table 9's "Unpruned" row starts the fake from v_unpruned.
What the paper does not give is marked "ours" or by the code it comes from.
"""

from __future__ import annotations

from typing import Literal

from flc.api import View, option
from flc.matching import DistributionMatching, MatchingOptions


class DmdDistiller(DistributionMatching):
    """Stage III, Eq 8, with the paper's rate."""

    class Options(MatchingOptions):
        lr: float = option(5e-7, "generator's learning rate", "paper", gt=0)
        normalise: bool = option(
            True, "divide the gradient by mean |x - x0_real| of each sample", "ours, DMD's; Eq 8 has none"
        )
        fake_init: Literal["pruned", "unpruned"] = option(
            "pruned", "fake starts from v_pruned or v_unpruned", "paper; Table 9"
        )

    def fake_start(self) -> View:
        return self.setting.pruned if self.options.fake_init == "pruned" else self.setting.full
