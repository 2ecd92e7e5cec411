"""All metrics over all rows: what `metrics.json` holds."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flc.api import Metric, Score
from flc.errors import UserError
from flc.evaluate.clips import Clips
from flc.evaluate.metrics import AVERAGE, average, word_accuracies
from flc.evaluate.sampling import Prompts, Row
from flc.recipe import versions
from flc.registry import create, registry

#: What a table cannot do without; a metric beside these may be broken, and is n/a then.
NEEDED = (*AVERAGE, "first_frame_fidelity", "distribution", "diversity")
#: Of the scores clip by clip in metrics.json: their mean is then the row's score to half of the last one.
DIGITS = 5


class Broken(Metric):
    """Stands where a third party's metric does not load."""

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.summary = cause  # type: ignore[misc]

    def score(self, clips: Clips, reference: Clips) -> Score:
        return Score(math.nan, None, self.summary)


def load(name: str) -> Metric:
    """A registered metric; `PluginError` when one of `NEEDED` is broken."""
    try:
        metric: Metric = create("metric", name)
        return metric
    except UserError as error:
        if name in NEEDED:
            raise
        return Broken(str(error))


def metrics() -> dict[str, Metric]:
    """Every registered metric, in the order of the average, then the guards and third parties'."""
    names = registry().names("metric")
    return {name: load(name) for name in [*(n for n in AVERAGE if n in names), *(n for n in names if n not in AVERAGE)]}


def scored(name: str, metric: Metric, clips: Clips, reference: Clips) -> Score:
    """A third party's metric that fails is n/a, with the cause as its note; it does not end the run."""
    try:
        score = metric.score(clips, reference)
        if not isinstance(score, Score):
            raise TypeError(f"score() returned {type(score).__name__}, not an flc.api.Score")
        value = float(score.value)  # a plugin's may be one of numpy's, which no JSON takes
        if not (math.isnan(value) or 0 <= value <= 1):
            raise ValueError(f"score() returned {value}, which is not in [0, 1]")
        return Score(value, checked(score.per_clip, len(clips)), str(score.note))
    except Exception as error:
        if name in NEEDED:
            raise
        return Score(math.nan, None, f"failed: {type(error).__name__}: {error}")


def checked(per_clip: Any, count: int) -> np.ndarray | None:
    """A score's values clip by clip, as numbers; `ValueError` when there is not one for each clip."""
    if per_clip is None:
        return None
    values = np.asarray(per_clip, float)
    if values.shape != (count,):
        raise ValueError(f"score() returned per_clip of shape {values.shape}, not one number for each of {count} clips")
    return values


def listed(per_clip: np.ndarray) -> list[float | None]:
    """As JSON has it: to `DIGITS`, None where a metric does not apply to a clip."""
    return [round(value, DIGITS) if math.isfinite(value) else None for value in per_clip.tolist()]


def by_source(scores: Mapping[str, Score], given: np.ndarray) -> dict[str, dict[str, float]]:
    """`text_only` and `first_frame`: the average over the clips of each kind, and each metric that scores clip by clip.

    A given frame hands its texture and its shape on to the clip, which hides what a network makes of text alone. Both
    are empty where all clips are of one kind.
    """
    out: dict[str, dict[str, float]] = {}
    for kind, chosen in (("text_only", ~given), ("first_frame", given)):
        if not chosen.any() or chosen.all():
            out[kind] = {}
            continue
        found = {name: score for name, score in scores.items() if score.per_clip is not None}
        means = {name: mean(score.per_clip[chosen]) for name, score in found.items()}
        whole = average({**scores} | {name: Score(value) for name, value in means.items()})
        out[kind] = {"average": whole} | {name: value for name, value in means.items() if not math.isnan(value)}
    return out


def mean(per_clip: np.ndarray) -> float:
    """Of the clips that a metric applies to; nan when there are none."""
    some = per_clip[~np.isnan(per_clip)]
    return float(some.mean()) if some.size else math.nan


def score_row(row: Row, clips: Clips, reference: Clips, seconds: float) -> dict[str, Any]:
    scores = {name: scored(name, metric, clips, reference) for name, metric in metrics().items()}
    return {
        "name": row.name,
        "title": row.title,
        "steps": row.steps,
        "guidance": row.guidance,
        "parameters": row.parameters,
        "seconds": seconds,
        "average": average(scores),
        "scores": {n: None if math.isnan(s.value) else s.value for n, s in scores.items()},
        "notes": {n: s.note for n, s in scores.items() if s.note},
        "per_clip": {n: listed(s.per_clip) for n, s in scores.items() if s.per_clip is not None},
        **by_source(scores, clips.given),
        "words": word_accuracies(clips),
    }


def hardware() -> dict[str, Any]:
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def described() -> list[dict[str, Any]]:
    """The shapes suite's metrics as metrics.json lists them."""
    return [
        {"name": n, "summary": m.summary or registry().find("metric", n).algorithm.summary, "in_average": n in AVERAGE}
        for n, m in metrics().items()
    ]


def asked_for(prompts: Prompts) -> list[dict[str, Any]]:
    """Each clip's prompt as metrics.json lists it."""
    asked = zip(prompts.captions, prompts.seeds, prompts.given.tolist(), strict=True)
    return [{"caption": c, "seed": s, "given": g} for c, s, g in asked]


def document(
    suite: str,
    rows: list[dict[str, Any]],
    metrics: list[dict[str, Any]],
    prompts: list[dict[str, Any]],
    seed: int,
    **more: Any,
) -> dict[str, Any]:
    """The contents of metrics.json. `pairs` of `more`: what was measured between two rows."""
    return {
        "suite": suite,
        "rows": rows,
        "metrics": metrics,
        "clips": len(prompts),
        "seed": seed,
        "hardware": hardware(),
        "versions": versions(),
        "prompts": prompts,
        **more,
    }
