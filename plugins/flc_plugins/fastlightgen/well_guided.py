"""Well-guided teacher guidance (FastLightGen, arXiv:2603.01685, Eq 9).

    v_real = b1 (v_pruned(c) - v_pruned(0)) + b2 (v_unpruned(c) - v_pruned(c)) + v_pruned(0)
    b1 ~ U[beta1 - a1, beta1 + b1],  b2 ~ U[beta2 - a2, beta2 + a2]

c is the text prompt, 0 the null prompt. beta1 is standard-form guidance (1 = none); beta2 moves the teacher
from the pruned network (0) towards the unpruned one (1). Identities: (1, 1) is v_unpruned(c), (beta, 0) is CFG
of the pruned network, and where both networks agree it is CFG with b1 whatever b2.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flc.api import Draws, Query, TeacherComposer, option
from flc.api import Options as Base

if TYPE_CHECKING:
    from torch import Tensor

PRUNED, NULL, UNPRUNED = Query("pruned"), Query("pruned", "null"), Query("unpruned")


class WellGuided(TeacherComposer):
    """Eq 9, of the pruned network with and without text and the unpruned one with text."""

    class Options(Base):
        beta1: float = option(3.5, "inter CFG: guidance by the text", "paper, WanX (2.0 for Hunyuan)", ge=0, le=20)
        beta2: float = option(0.25, "intra CFG: guidance by the removed blocks", "paper", ge=-1, le=2)
        spread1: float = option(1.0, "beta1 is drawn from beta1 +- spread1", "paper, a1 = b1", ge=0)
        spread2: float = option(0.1, "beta2 is drawn from beta2 +- spread2", "paper, a2 (prints b2 too)", ge=0)

    def needs(self) -> Sequence[Query]:
        o = self.options
        # v_pruned(0) has the weight 1 - b1, v_unpruned(c) b2: where it is fixed at 0 it is not worth an evaluation
        null, unpruned = (o.beta1, o.spread1) != (1, 0), (o.beta2, o.spread2) != (0, 0)
        return (PRUNED, *(NULL,) * null, *(UNPRUNED,) * unpruned)

    def compose(self, v: "Mapping[Query, Tensor]", rng: Draws) -> "Tensor":
        o = self.options
        b1 = rng.shared_uniform(o.beta1 - o.spread1, o.beta1 + o.spread1)
        b2 = rng.shared_uniform(o.beta2 - o.spread2, o.beta2 + o.spread2)
        null, unpruned = v.get(NULL, v[PRUNED]), v.get(UNPRUNED, v[PRUNED])
        return b1 * (v[PRUNED] - null) + b2 * (unpruned - v[PRUNED]) + null
