"""Which rows may be ranked: the interval of the difference of two rows' averages, over clips and seeds.

    clip_averages(row)                -> (n,) the average of each clip, of a row of metrics.json
    difference(a, b, noise, level)    -> Interval of a less b; a, b: one (n,) array a seed, paired clip by clip
    seed_noise(rows)                  -> SeedNoise, what a row's mean owes to its seed, pooled over a table's rows
    may_rank(interval)                -> bool: it excludes 0

Within a run every row has the same prompts, first frames and noise, so clips are compared in pairs. Another seed
trains another network and draws other prompts: clips are nested in seeds,

    d_si = mu + S_s + e_si    (seed s of k, clip i of n),    var(mean) = (var S + var e / n) / k,

and the k means over clips, which vary by var S + var e / n, estimate this without taking it apart. The half width is
Student's t of their k - 1 degrees times their standard error, but never less than the clips alone would make it, which
have far more degrees: three means may lie close together by luck.

Not a hierarchical bootstrap: three seeds drawn from three have two thirds of the variance and know no t. With three
seeds of 288 clips, and seeds that vary by five times the error of the clips' mean, it covers .76 where .95 is said
(300 simulated tables; this interval .95; of clips alone .30).

Three seeds have t = 4.3. `seed_noise` takes the rows of a table together, (rows - 1) (k - 1) degrees (Fisher's least
significant difference), on the assumption that their noise is alike: hand it rows of like quality, not one that has
collapsed. Intervals are of one comparison each; among many, some exclude 0 by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from flc.errors import UserError
from flc.evaluate.metrics import AVERAGE

#: One seed's clips, in the order of the prompts.
Clipwise = Sequence[np.ndarray]


@dataclass(frozen=True)
class SeedNoise:
    """Variance of a row's mean over clips from seed to seed, without what all rows have in common."""

    variance: float
    degrees: int


@dataclass(frozen=True)
class Interval:
    """`difference` +- `half` at `level`, from so many seeds and so many clips in all of them together."""

    difference: float
    half: float
    seeds: int
    clips: int
    level: float = 0.95

    @property
    def low(self) -> float:
        return self.difference - self.half

    @property
    def high(self) -> float:
        return self.difference + self.half

    def __str__(self) -> str:
        n = f"n = {self.clips} clips, {self.seeds} seed{'s' * (self.seeds != 1)}"
        half = f"± {self.half:.4f}" if math.isfinite(self.half) else "± unknown"
        return f"{self.difference:+.4f} {half} ({n})"


def difference(a: Clipwise, b: Clipwise, noise: SeedNoise | None = None, level: float = 0.95) -> Interval:
    """Interval of the mean of a less that of b, each seed counted alike; `noise` in place of these two rows' own.

    One seed without `noise` says nothing of other seeds: half the interval is infinite.
    """
    paired = _paired(a, b)
    k, means = len(paired), np.array([d.mean() for d in paired])
    clips = np.mean([d.var(ddof=1) / len(d) if len(d) > 1 else 0.0 for d in paired])
    own = SeedNoise(float(means.var(ddof=1)) / 2, k - 1) if k > 1 else SeedNoise(math.inf, 1)
    seeds = noise or own
    quantile = 0.5 + level / 2
    half = max(
        stats.t.ppf(quantile, seeds.degrees) * math.sqrt(2 * seeds.variance / k),
        stats.norm.ppf(quantile) * math.sqrt(clips / k),
    )
    return Interval(float(means.mean()), float(half), k, sum(map(len, paired)), level)


def seed_noise(rows: Sequence[Clipwise]) -> SeedNoise:
    """The residual of rows x seeds (seeds in the same order everywhere), at least two of both."""
    means = np.array([[seed.mean() for seed in _clean(row)] for row in rows])
    if means.ndim != 2 or min(means.shape) < 2:
        raise UserError("noise between seeds needs at least two rows of the same two or more seeds")
    residual = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    degrees = (means.shape[0] - 1) * (means.shape[1] - 1)
    return SeedNoise(float((residual**2).sum() / degrees), degrees)


def may_rank(interval: Interval) -> bool:
    """Whether one of the two rows may be called better: 0 lies outside the interval."""
    return abs(interval.difference) > interval.half


def clip_averages(row: Mapping[str, Any]) -> np.ndarray:
    """(n,) each clip's mean over the metrics of the average that apply; their mean is the row's average.

    `row`: of metrics.json, with the scores clip by clip under `per_clip`.
    """
    per_clip = row.get("per_clip") or {}
    columns = [per_clip[name] for name in AVERAGE if row.get("scores", {}).get(name) is not None and name in per_clip]
    if not columns:
        raise UserError(f"row {row.get('name')!r} has no scores clip by clip: evaluate it again")
    return np.mean(np.array(columns, float), axis=0)


def _clean(row: Clipwise) -> list[np.ndarray]:
    seeds = [np.asarray(seed, float) for seed in row]
    if not seeds or any(seed.ndim != 1 or seed.size == 0 or not np.isfinite(seed).all() for seed in seeds):
        raise UserError("scores of a row are one list of finite numbers for each of one or more seeds")
    return seeds


def _paired(a: Clipwise, b: Clipwise) -> list[np.ndarray]:
    ours, theirs = _clean(a), _clean(b)
    if [len(x) for x in ours] != [len(y) for y in theirs]:
        counts = " and ".join(str([len(x) for x in row]) for row in (ours, theirs))
        raise UserError(f"{counts} clips of each seed are no pairs: both rows need the same seeds and prompts")
    return [x - y for x, y in zip(ours, theirs, strict=True)]
