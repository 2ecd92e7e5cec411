"""Half-way between two guided teachers.

    v_real = share CFG_s(v_unpruned) + (1 - share) CFG_s(v_pruned),   CFG_s(v) = v(0) + s (v(c) - v(0))

c is the text prompt, 0 the null prompt, s standard-form guidance (1 is none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flc.api import Draws, Query, TeacherComposer, option
from flc.api import Options as Base
from flc.flow import guided

if TYPE_CHECKING:
    from torch import Tensor


class Halfway(TeacherComposer):
    class Options(Base):
        scale: float = option(3.5, "guidance scale, standard form", "FastLightGen's beta1 for WanX", ge=0, le=20)
        share: float = option(0.5, "weight of the unpruned network", "ours", ge=0, le=1)

    def needs(self) -> Sequence[Query]:
        return [Query(view, text) for view in ("unpruned", "pruned") for text in ("text", "null")]

    def compose(self, v: Mapping[Query, Tensor], rng: Draws) -> Tensor:
        strong, weak = (
            guided(v[Query(view)], v[Query(view, "null")], self.options.scale) for view in ("unpruned", "pruned")
        )
        return self.options.share * strong + (1 - self.options.share) * weak
