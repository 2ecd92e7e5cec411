"""What each metric makes of clips that are wrong in one known way: the table in `flc/evaluate/README.md`.

    python -m benchmarks.distortions

Drawn clips, distorted as in the metrics' tests, against drawn clips of another seed; every second clip is 'given'
its undistorted first frame. Again at 64 x 64, for what the size changes, and how long all metrics take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from benchmarks.common import write
from flc.evaluate.clips import Clips
from flc.evaluate.metrics import average
from flc.evaluate.suite import metrics
from tests.evaluate.spoil import (
    blurred,
    brightening,
    change_clips,
    collapsed,
    draw_clips,
    faded,
    flattened,
    jittered,
    pumped,
    pure_noise,
    recoloured,
    sharpened,
    shrinking,
    shuffled,
    softened,
    still,
    stretched,
    switched,
    wild,
    wobbling,
    wrong_colour,
)

CLIPS, SEED, REFERENCE_SEED, ROUNDS = 192, 0, 1, 5
COLUMNS = {
    "caption_accuracy": "caption",
    "dynamic_degree": "dynamic",
    "motion_smoothness": "smooth",
    "temporal_flicker": "flicker",
    "sharpness": "sharp",
    "subject_consistency": "subject",
    "first_frame_fidelity": "first frame",
    "diversity": "diversity",
    "distribution": "distribution",
    "average": "average",
}


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Clips], Clips]:
    return lambda clips: change_clips(clips, change)


def distortions() -> dict[str, Callable[[Clips], Clips]]:
    return {
        "drawn": lambda clips: clips,
        "blur .5 px + noise 1 %": each(softened(0.5, 0.01)),
        "blur 1 px + noise 3 %": each(softened(1, 0.03)),
        "blur 2 px": each(blurred(2)),
        "still": each(still),
        "shuffled frames": each(shuffled()),
        "uniform noise": each(pure_noise()),
        "wrong colour in caption": wrong_colour,
        "sharpened, amount .5": each(sharpened(0.5)),
        "sharpened, amount 1": each(sharpened(1)),
        "no texture": each(flattened),
        "flicker ± .05": each(pumped(0.05)),
        "jitter ± 1 px": each(jittered(1)),
        "faded by half": each(faded),
        "outline wobbles by 5 %": each(wobbling(0.05)),
        "outline wobbles by 10 %": each(wobbling(0.1)),
        "stretched by 30 % by and by": each(stretched(0.3)),
        "shrunk to 70 % by and by": each(shrinking(0.7)),
        "another shape from half-way on": switched,
        "another colour from half-way on": each(recoloured),
        "brighter by .16 by and by": each(brightening(0.08)),
        "one clip for all seeds": collapsed,
        "sizes run wild, one background": wild,
    }


def score(clips: Clips, reference: Clips) -> dict[str, float]:
    loaded = metrics()
    scores = {name: loaded[name].score(clips, reference) for name in COLUMNS if name != "average"}
    return {name: s.value for name, s in scores.items()} | {"average": average(scores)}


def table(side: int) -> dict[str, dict[str, float]]:
    drawn, reference = (draw_clips(CLIPS, s, height=side, width=side) for s in (SEED, REFERENCE_SEED))
    drawn = Clips(drawn.video, drawn.captions, drawn.video[:, 0].copy(), np.arange(CLIPS) % 2 == 0)
    return {title: score(change(drawn), reference) for title, change in distortions().items()}


def seconds(side: int) -> list[float]:
    """Processor time of all metrics on half as many clips; nothing is remembered from one round to the next."""
    drawn = draw_clips(CLIPS // 2, SEED, height=side, width=side)
    reference = draw_clips(CLIPS, REFERENCE_SEED, height=side, width=side)
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        score(*(Clips(c.video, c.captions) for c in (drawn, reference)))
        taken.append(time.process_time() - began)
    return taken


def plain(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON knows no nan."""
    return {title: {n: None if math.isnan(v) else v for n, v in row.items()} for title, row in rows.items()}


def main() -> None:
    rows, larger = table(48), table(64)
    print("| clips |", " | ".join(COLUMNS.values()), "|\n|" + "---|" * (len(COLUMNS) + 1))
    for title, row in rows.items():
        print("|", title, "|", " | ".join("–" if math.isnan(v) else f"{v:.2f}" for v in row.values()), "|")
    change = {n: float(np.nanmax([abs(larger[t][n] - row[n]) for t, row in rows.items()])) for n in COLUMNS}
    taken = seconds(64)
    values = {
        "seeds": {"clips": SEED, "reference": REFERENCE_SEED},
        "clips": CLIPS,
        "rows": plain(rows),
        "rows_at_64": plain(larger),
        "largest_change_at_64": change,
        "seconds_at_64": taken,
    }
    print({n: round(v, 3) for n, v in change.items()}, np.round(taken, 2))
    print(write("distortions", "python -m benchmarks.distortions", values))


if __name__ == "__main__":
    main()
