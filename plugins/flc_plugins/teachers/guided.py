"""Teachers that are one network under classifier-free guidance.

    v_real = v(0) + s (v(c) - v(0)),  s ~ U[scale - spread, scale + spread]

Standard form: s = 1 is no guidance. (The form cond + g (cond - uncond) has s = 1 + g.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from flc.api import Draws, Query, TeacherComposer, option
from flc.api import Options as Base
from flc.flow import guided

if TYPE_CHECKING:
    from torch import Tensor


class _Guided(TeacherComposer):
    network: ClassVar[Literal["pruned", "unpruned"]]

    class Options(Base):
        scale: float = option(3.5, "guidance scale, standard form", "paper's beta1 for WanX", ge=0, le=20)
        spread: float = option(0.0, "the scale is drawn from scale +- spread", "ours", ge=0)

    def queries(self) -> tuple[Query, Query]:
        return Query(self.network), Query(self.network, "null")

    def needs(self) -> Sequence[Query]:
        o = self.options
        # v(0) has the weight 1 - s: at a fixed s = 1 it is not worth an evaluation
        return self.queries()[:1] if (o.scale, o.spread) == (1, 0) else self.queries()

    def compose(self, v: Mapping[Query, Tensor], rng: Draws) -> Tensor:
        o = self.options
        text, null = self.queries()
        scale = rng.shared_uniform(o.scale - o.spread, o.scale + o.spread)
        return guided(v[text], v.get(null, v[text]), scale)


class Strong(_Guided):
    """Real side: the unpruned network. Table 9's "Unpruned" row sets `distiller.fake_init=unpruned` too."""

    network = "unpruned"


class Weak(_Guided):
    """Real side: the pruned network. Table 9's "Pruned" row; equals well-guided at beta2 = 0."""

    network = "pruned"


class Cfg(_Guided):
    """The network the user chooses; with nothing removed all three are DMD's teacher."""

    network = "unpruned"

    class Options(_Guided.Options):
        network: Literal["pruned", "unpruned"] = option("unpruned", "which network is guided", "ours")

    def queries(self) -> tuple[Query, Query]:
        return Query(self.options.network), Query(self.options.network, "null")
