"""Two charts as inline SVG, coloured by the page's stylesheet: bars of block scores, curves of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flc.report.axis import Around, Axis, Scale, baseline_axis, label, value_axis
from flc.report.load import Curve
from flc.report.markup import Html, el, join

MOST_POINTS = 500
"""Longer curves are averaged in groups: no screen shows more, and the page stays small."""
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 280.0, 16.0, 236.0, 62.0, 110.0
"""Pixels of the bar chart: its height, where the axis ends and begins, and the margins beside it."""


def grid(axis: Scale, left: float, right: float, count: int) -> Html:
    lines = []
    for tick, text in axis.ticks(count):
        y = axis(tick)
        lines.append(el("line", cls="grid", x1=left, x2=right, y1=y, y2=y))
        lines.append(el("text", text, cls="tick", x=left - 6, y=y + 4, text_anchor="end"))
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


def score_axis(stacks: Sequence[Bars]) -> Axis | Around | None:
    """One axis for all stacks, so that their bars compare; None when there is no score at all."""
    scores = [v for bars in stacks for v in bars.scores if v is not None]
    if not scores:
        return None
    intervals = [pair for bars in stacks for pair in bars.intervals if pair]
    if (baseline := stacks[0].baseline) is None:
        return value_axis(scores, BOTTOM, TOP, zero=True)
    values = scores + [end for pair in intervals for end in pair]
    return baseline_axis(values, [(high - low) / 2 for low, high in intervals], baseline, BOTTOM, TOP)


def bar_chart(bars: Bars, axis: Axis | Around) -> Html:
    """A bar per block, from the baseline (without one: from zero, or the foot of a log axis) to its score."""
    count = len(bars.scores)
    pitch = min(46.0, max(7.0, 900 / max(count, 1)))
    right = LEFT + max(pitch * count, 200.0)
    foot = bars.baseline if bars.baseline is not None else axis.low if isinstance(axis, Axis) and axis.log else 0.0
    parts = [grid(axis, LEFT, right, 5)]
    every = max(1, math.ceil(22 / pitch))
    for i, (score, interval) in enumerate(zip(bars.scores, bars.intervals, strict=True)):
        x, fate = LEFT + pitch * i, "kept" if i in bars.kept else "removed"
        y0, y1 = axis(foot), axis(foot if score is None else score)
        hint = el("title", f"{bars.name} {i}, {fate}: {'no score' if score is None else label(score)}")
        left, width, top, height = x + pitch * 0.16, pitch * 0.68, min(y0, y1), max(abs(y1 - y0), 1.0)
        parts.append(el("rect", hint, cls=f"bar {fate}", x=left, y=top, width=width, height=height))
        if interval:
            parts.append(whisker(x + pitch / 2, axis(interval[0]), axis(interval[1]), min(4.0, pitch / 4)))
        if i % every == 0:
            middle = x + pitch / 2
            parts.append(el("text", str(i), cls=f"tick {fate}", x=middle, y=HEIGHT - 26, text_anchor="middle"))
    if bars.baseline is not None:
        y = axis(bars.baseline)
        parts.append(el("line", cls="baseline", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(el("text", f"baseline {label(bars.baseline)}", cls="tick", x=right + 5, y=y + 4))
    middle = (LEFT + right) / 2
    parts.append(el("text", f"{bars.name}, by index", cls="tick", x=middle, y=HEIGHT - 6, text_anchor="middle"))
    return svg(right + RIGHT, HEIGHT, f"score of each block of {bars.name}", *parts)


def whisker(x: float, y0: float, y1: float, half: float) -> Html:
    path = f"M{x:.1f} {y0:.1f}V{y1:.1f}M{x - half:.1f} {y0:.1f}h{2 * half:.1f}M{x - half:.1f} {y1:.1f}h{2 * half:.1f}"
    return el("path", cls="whisker", d=path)


def thinned(curve: Curve) -> Curve:
    """At most `MOST_POINTS` points, each the mean of a group of neighbours."""
    size = max(1, math.ceil(len(curve) / MOST_POINTS))
    return [mean(curve[i : i + size]) for i in range(0, len(curve), size)]


def smoothed(curve: Curve) -> Curve:
    """Running mean over a twelfth of the curve. The window shrinks towards the beginning, where curves are
    steep, and is cut off at the end, where they are flat and one noisy point should not turn them."""
    reach = len(curve) // 24
    spans = (min(reach, i) for i in range(len(curve)))
    return [(curve[i][0], mean(curve[i - r : i + r + 1])[1]) for i, r in enumerate(spans)]


def mean(points: Curve) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def line_chart(title: str, curve: Curve, last_step: float) -> Html:
    """A curve over steps 0 to `last_step`: thin as logged, thick its running mean."""
    width, height, left, right, top, bottom = 330.0, 170.0, 54.0, 308.0, 12.0, 142.0
    points = thinned(curve)
    y = value_axis([v for _, v in points], bottom, top)
    x = Axis(0.0, max(last_step, 1.0), left, right)

    def path(of: Curve) -> str:
        return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in of)

    parts = [grid(y, left, right, 3)]
    for tick in x.steps(4):
        parts.append(el("text", f"{tick:g}", cls="tick", x=x(tick), y=bottom + 18, text_anchor="middle"))
    if len(points) == 1:
        parts.append(el("circle", cls="dot", cx=x(points[0][0]), cy=y(points[0][1]), r="3"))
    else:
        parts.append(el("path", cls="raw", d=path(points)))
        parts.append(el("path", cls="mean", d=path(smoothed(points))))
    notes = f" last {label(curve[-1][1])}{', log scale' if y.log else ''}"
    caption = el("figcaption", title, el("small", notes))
    return el("figure", caption, svg(width, height, f"{title} over steps", *parts))
