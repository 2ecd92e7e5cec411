"""From values to pixels: linear, logarithmic, and logarithmic in the distance from a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

RATIO = 30.0
"""Values that span more than this ratio are drawn on a logarithmic scale."""
PAD = 0.06
"""Room above and below the values, as a share of the axis."""
DEPTH = 1e4
"""Differences from a baseline below the largest one over this are not told apart."""


class Scale(Protocol):
    def __call__(self, value: float) -> float:
        """The pixel of a value."""

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """About `count` round values inside the axis, with their labels."""


def label(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


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

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        values = self.decades(count) if self.log else self.steps(count)
        return [(v, label(v)) for v in values]

    def steps(self, count: int) -> list[float]:
        raw = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(raw))
        step = unit * next(f for f in (1, 2, 5, 10) if f * unit >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def decades(self, count: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        stride = max(1, round((last - first) / count))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        values = [f * 10.0**e for e in range(first, last + 1, stride) for f in factors]
        return [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


@dataclass(frozen=True)
class Around:
    """d = value - `baseline`, drawn as asinh(d / `unit`): logarithmic far from the baseline, linear within a
    `unit` of it, of either sign. Some blocks matter a thousand times more than others, and some help when
    they are gone; both have to be seen. `low` and `high` are differences."""

    baseline: float
    unit: float
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        at, low, high = (math.asinh(d / self.unit) for d in (value - self.baseline, self.low, self.high))
        room = PAD * (high - low)
        return self.start + (self.end - self.start) * (at - low + room) / (high - low + 2 * room)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Powers of ten on either side, apart enough that `count` or so fill the axis; the baseline has its line."""
        largest = max(self.high, -self.low)
        span = math.log10(largest / self.unit)
        stride, factors = max(1, math.ceil(span / count)), (1, 3) if span < 2.5 else (1,)
        exponents = range(math.floor(math.log10(largest)), math.ceil(math.log10(self.unit)) - 1, -stride)
        out = []
        for d in (f * 10.0**e for e in exponents for f in factors):
            out += [(self.baseline + d, f"+{label(d)}")] if d <= self.high else []
            out += [(self.baseline - d, f"−{label(d)}")] if -d >= self.low else []
        return out


def value_axis(values: Sequence[float], start: float, end: float, zero: bool = False) -> Axis:
    """An axis around all `values`, logarithmic where they span more than `RATIO`; `zero`: from zero if linear."""
    low, high = min(values), max(values)
    if low > 0 and high / low > RATIO:
        room = (high / low) ** PAD
        return Axis(low / room, high * room, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * PAD or abs(high) * 0.1 or 1.0
    return Axis(low - (0.0 if zero and low == 0 else room), high + room, start, end)


def baseline_axis(
    values: Sequence[float], errors: Sequence[float], baseline: float, start: float, end: float
) -> Axis | Around:
    """An axis for values that are read against a baseline. `errors` (half widths of intervals) say what
    differences can be told apart at all; without them the smallest difference does."""
    away = sorted(abs(v - baseline) for v in values if v != baseline)
    if not away:
        return value_axis([*values, baseline], start, end)
    unit = max(median(errors) if errors else away[0], away[-1] / DEPTH)
    if away[-1] <= RATIO * unit:
        low, high = min(*values, baseline), max(*values, baseline)
        room = PAD * (high - low)
        return Axis(low - room, high + room, start, end)
    differences = [0.0, *(v - baseline for v in values)]
    return Around(baseline, unit, min(differences), max(differences), start, end)
