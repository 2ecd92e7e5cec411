"""Two charts as inline SVG, coloured by the page's stylesheet: bars of block scores, curves of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flc.report.load import Curve
from flc.report.markup import Html, el, join

LOG_RATIO = 30.0
"""Positive values that span more than this ratio are drawn on a logarithmic scale."""
MOST_POINTS = 500
"""Longer curves are averaged in groups: no screen shows more, and the page stays small."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values inside the axis."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            stride = max(1, round((last - first) / count))
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            values = [f * 10.0**e for e in range(first, last + 1, stride) for f in factors]
        else:
            raw = (self.high - self.low) / count
            unit = 10.0 ** math.floor(math.log10(raw))
            step = unit * next(f for f in (1, 2, 5, 10) if f * unit >= raw * 0.999)
            values = [
                i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        return [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9) or v == 0 and not self.log]


def value_axis(values: Sequence[float], start: float, end: float, zero: bool = False, pad: float = 0.06) -> Axis:
    """An axis around all `values`, logarithmic where they span more than `LOG_RATIO`; `zero`: from zero if linear."""
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_RATIO:
        room = (high / low) ** pad
        return Axis(low / room, high * room, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Axis(low - (0.0 if zero and low == 0 else room), high + room, start, end)


def label(value: float) -> str:
    return (
        f"{value:.4g}"
        if 1e-3 <= abs(value) < 1e5 or value == 0
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def grid(axis: Axis, left: float, right: float, count: int) -> Html:
    lines = []
    for tick in axis.ticks(count):
        y = axis(tick)
        lines.append(el("line", cls="grid", x1=left, x2=right, y1=y, y2=y))
        lines.append(el("text", label(tick), cls="tick", x=left - 6, y=y + 4, text_anchor="end"))
    return join(*lines)


def svg(width: float, height: float, title: str, *children: Html | str | None) -> Html:
    box = f"0 0 {width:g} {height:g}"
    return el("svg", *children, viewBox=box, width=f"{width:g}", height=f"{height:g}", role="img", aria_label=title)


@dataclass(frozen=True)
class Bars:
    """One stack of blocks. `intervals` are of the score itself; None where unknown, as for a score."""

    name: str
    scores: list[float | None]
    intervals: list[tuple[float, float] | None]
    kept: frozenset[int]
    baseline: float | None = None

    def values(self) -> list[float]:
        """Everything that the axis has to show. The lower end of an interval may fall off a log axis."""
        scores = [v for v in [*self.scores, self.baseline] if v is not None]
        return scores + [high for _, high in filter(None, self.intervals)]


def score_axis(stacks: Sequence[Bars], start: float, end: float) -> Axis | None:
    """One axis for all stacks, so that their bars compare."""
    values = [v for bars in stacks for v in bars.values()]
    if not values:
        return None
    axis = value_axis(values, start, end, zero=all(bars.baseline is None for bars in stacks))
    if axis.log:
        return axis
    lows = [low for bars in stacks for low, _ in filter(None, bars.intervals)]
    return value_axis(values + lows, start, end, zero=all(bars.baseline is None for bars in stacks)) if lows else axis


HEIGHT, TOP, LEFT, RIGHT = 280.0, 16.0, 62.0, 96.0


def bar_chart(bars: Bars, axis: Axis) -> Html:
    """A bar per block, from the baseline (without one: from zero, or the foot of a log axis) to its score."""
    count = len(bars.scores)
    pitch = min(46.0, max(7.0, 900 / max(count, 1)))
    right = LEFT + max(pitch * count, 200.0)
    foot = bars.baseline if bars.baseline is not None else axis.low if axis.log else 0.0
    parts = [grid(axis, LEFT, right, 5)]
    every = max(1, math.ceil(22 / pitch))
    for i, (score, interval) in enumerate(zip(bars.scores, bars.intervals, strict=True)):
        x, fate = LEFT + pitch * i, "kept" if i in bars.kept else "removed"
        y0, y1 = axis(foot), axis(foot if score is None else score)
        told = "no score" if score is None else label(score)
        hint = el("title", f"{bars.name} {i}, {fate}: {told}")
        wide = {"x": x + pitch * 0.16, "width": pitch * 0.68}
        parts.append(el("rect", hint, cls=f"bar {fate}", y=min(y0, y1), height=max(abs(y1 - y0), 1.0), **wide))
        if interval:
            parts.append(whisker(x + pitch / 2, axis(interval[0]), axis(interval[1]), min(4.0, pitch / 4)))
        if i % every == 0:
            middle = {"x": x + pitch / 2, "y": HEIGHT - 26, "text_anchor": "middle"}
            parts.append(el("text", str(i), cls=f"tick {fate}", **middle))
    if bars.baseline is not None:
        y = axis(bars.baseline)
        parts.append(el("line", cls="baseline", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(el("text", f"baseline {label(bars.baseline)}", cls="tick", x=right + 5, y=y + 4))
    parts.append(
        el("text", f"block of {bars.name}", cls="tick", x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle")
    )
    return svg(right + RIGHT, HEIGHT, f"score of each block of {bars.name}", *parts)


def whisker(x: float, y0: float, y1: float, half: float) -> Html:
    path = f"M{x:.1f} {y0:.1f}V{y1:.1f}M{x - half:.1f} {y0:.1f}h{2 * half:.1f}M{x - half:.1f} {y1:.1f}h{2 * half:.1f}"
    return el("path", cls="whisker", d=path)


def thinned(curve: Curve) -> Curve:
    """At most `MOST_POINTS` points, each the mean of a group of neighbours."""
    size = math.ceil(len(curve) / MOST_POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)] if size > 1 else [[p] for p in curve]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smoothed(curve: Curve) -> Curve:
    """Running mean over a twelfth of the curve; the window shrinks towards the ends, so they are not bent."""
    reach = len(curve) // 24
    out = []
    for i, (x, _) in enumerate(curve):
        r = min(reach, i, len(curve) - 1 - i)
        part = curve[i - r : i + r + 1]
        out.append((x, sum(y for _, y in part) / len(part)))
    return out


def line_chart(title: str, curve: Curve, last_step: float) -> Html:
    """A curve over steps 0 to `last_step`: thin as logged, thick its running mean."""
    width, height, left, right, top, bottom = 330.0, 170.0, 54.0, 318.0, 12.0, 142.0
    points = thinned(curve)
    y = value_axis([v for _, v in points], bottom, top)
    x = Axis(0.0, max(last_step, 1.0), left, right)

    def path(of: Curve) -> str:
        return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in of)

    parts = [grid(y, left, right, 3)]
    for tick in x.ticks(4):
        parts.append(el("text", f"{tick:g}", cls="tick", x=x(tick), y=bottom + 18, text_anchor="middle"))
    if len(points) == 1:
        parts.append(el("circle", cls="dot", cx=x(points[0][0]), cy=y(points[0][1]), r="3"))
    else:
        parts.append(el("path", cls="raw", d=path(points)))
        parts.append(el("path", cls="mean", d=path(smoothed(points))))
    note = el("small", " log scale") if y.log else None
    last = el("small", f" last {label(curve[-1][1])}")
    return el(
        "figure", el("figcaption", title, note, last), svg(width, height, f"{title} over steps", *parts), cls="small"
    )
