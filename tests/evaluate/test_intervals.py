"""Intervals of differences: they cover the known difference as often as they say, with and without noise of seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flc.errors import UserError
from flc.evaluate.intervals import Interval, SeedNoise, clip_averages, difference, may_rank, seed_noise
from flc.evaluate.metrics import AVERAGE

#: Of clips and of the mean over a seed's clips: as measured on students of the embedded model, about.
CLIPS, SEEDS, SPREAD = 96, 3, 0.05


def simulated(rng: np.random.Generator, rows: int, seed_share: float, means: np.ndarray | float = 0.0) -> np.ndarray:
    """(rows, seeds, clips): hard prompts hurt all rows alike, seeds add noise of `seed_share` errors of a mean."""
    prompts, seeds = rng.normal(0, 0.2, (1, SEEDS, CLIPS)), rng.normal(0, 0.1, (1, SEEDS, 1))
    trained = rng.normal(0, seed_share * SPREAD / math.sqrt(CLIPS), (rows, SEEDS, 1))
    own = rng.normal(0, SPREAD, (rows, SEEDS, CLIPS))
    return 0.8 + prompts + seeds + trained + own + np.broadcast_to(means, rows)[:, None, None]


@pytest.mark.parametrize("seed_share", [0.0, 1.0, 5.0])
def test_an_interval_covers_the_true_difference_as_often_as_it_says(seed_share):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        a, b = simulated(rng, 2, seed_share, np.array([0.03, 0.02]))
        found = difference(a, b)
        covered.append(found.low <= 0.01 <= found.high)
    # .95 less three standard errors of 1000 draws (.007); above it without noise of seeds, where clips set a floor
    assert np.mean(covered) >= 0.93
    assert np.mean(covered) <= 0.97 or seed_share < 5


def test_clips_alone_would_cover_far_too_seldom_where_seeds_differ():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(500):
        a, b = simulated(rng, 2, 5.0)
        alone = 1.96 * np.std(a - b) / math.sqrt((a - b).size)
        covered.append(abs(np.mean(a - b)) <= alone)
    assert np.mean(covered) < 0.5  # seeds vary by 5 errors of the clips' mean: erf(1.96 / sqrt(26) / sqrt(2)) = .30


def test_noise_of_all_rows_together_covers_too_and_is_narrower():
    rng = np.random.default_rng(2)
    covered, narrower = [], []
    for _ in range(500):
        table = simulated(rng, 8, 2.0, np.linspace(0, 0.07, 8))
        noise = seed_noise(table)
        found = difference(table[1], table[0], noise)
        covered.append(found.low <= 0.01 <= found.high)
        narrower.append(found.half / difference(table[1], table[0]).half)
    assert noise.degrees == 7 * 2
    assert 0.92 <= np.mean(covered) <= 0.98  # .95 and three standard errors of 500 draws (.01)
    # t falls from 4.30 (2 degrees) to 2.14 (14): a half, over a ratio of a root mean square to a single pair's
    assert np.median(narrower) < 0.7


def test_noise_of_seeds_is_found_whatever_is_common_to_a_seed_or_a_row():
    rng = np.random.default_rng(3)
    found = [seed_noise(simulated(rng, 8, 2.0, np.linspace(0, 1, 8))).variance for _ in range(200)]
    # training noise and the clips' own: (2² + 1²) spread² / clips; 200 x 14 degrees are right to 3 %
    assert np.mean(found) == pytest.approx(5 * SPREAD**2 / CLIPS, rel=0.1)


def test_two_rows_own_noise_is_that_of_their_differences():
    a, b = simulated(np.random.default_rng(4), 2, 2.0)
    assert difference(a, b, seed_noise([a, b])).half == pytest.approx(difference(a, b).half)
    wide = difference(a, b, SeedNoise(1.0, 2))
    assert wide.half == pytest.approx(4.303 * math.sqrt(2 / 3), rel=1e-3)  # t of 2 degrees


def test_pairs_cancel_what_makes_a_prompt_hard():
    rng = np.random.default_rng(5)
    a, b = simulated(rng, 2, 0.0)
    noise = SeedNoise(0.0, 2)  # clips alone
    # pairs differ by sqrt(2) x .05, unpaired clips by sqrt(2) x .21: a quarter
    assert difference(a, b, noise).half < 0.35 * difference(a, b[:, rng.permutation(CLIPS)], noise).half


def test_rows_are_ranked_only_outside_the_interval_and_n_is_printed():
    a, b = simulated(np.random.default_rng(6), 2, 0.0, np.array([0.1, 0.0]))
    assert may_rank(difference(a, b)) and may_rank(difference(b, a)) and not may_rank(difference(a, a))
    assert str(Interval(0.0123, 0.004, 3, 864)) == "+0.0123 ± 0.0040 (n = 864 clips, 3 seeds)"
    assert difference(a, b).clips == 3 * CLIPS and difference(a, b).difference == pytest.approx(np.mean(a - b))


def test_one_seed_ranks_nothing_but_with_the_noise_of_other_rows():
    a, b = simulated(np.random.default_rng(7), 2, 0.0, np.array([0.1, 0.0]))
    alone = difference(a[:1], b[:1])
    assert not may_rank(alone) and "± unknown (n = 96 clips, 1 seed)" in str(alone)
    assert may_rank(difference(a[:1], b[:1], seed_noise([a, b])))


def test_a_clips_average_is_over_the_metrics_of_the_average_that_apply():
    scores = dict.fromkeys(AVERAGE, 0.5) | {"caption_accuracy": None, "diversity": 0.1}
    per_clip = {name: [0.25, 0.75] for name in AVERAGE} | {"first_frame_fidelity": [None, 0.0]}
    per_clip["caption_accuracy"] = [None, None]
    row = {"name": "student", "scores": scores, "per_clip": per_clip}
    scores.pop("first_frame_fidelity", None)
    assert clip_averages(row).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([np.ones(3)], [np.ones(2)], "no pairs"),
        ([np.ones(3)] * 2, [np.ones(3)], "no pairs"),
        ([], [], "one or more seeds"),
        ([[np.nan]], [[1.0]], "finite"),
    ],
)
def test_rows_that_are_no_pairs_are_refused(a, b, message):
    with pytest.raises(UserError, match=message):
        difference(a, b)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(UserError, match="at least two rows"):
        seed_noise([[np.ones(3)], [np.ones(3)]])
    with pytest.raises(UserError, match="clip by clip"):
        clip_averages({"name": "student", "scores": {}})
