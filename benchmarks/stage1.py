"""Stage I: block evaluations and time of the sweep against one whole forward for each variant.

    python -m benchmarks.stage1

Both run in the same process on the same clips, in turn, warm; scores must be identical.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import write
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips
from flc.flow import noised
from flc.losses import tweedie_error
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.prunable import Prunable

CLIPS, BATCH, ROUNDS, SEED = 32, 16, 5, 0


def scores(samples, variants):
    out: dict = {}
    for s in samples:
        x_t = noised(s.x0, s.x1, s.t)
        for key, v in variants(s):
            out.setdefault(key, []).append(tweedie_error(x_t, v, s.t, s.x0, s.cond.free(s.x0)))
    return {key: torch.cat(parts) for key, parts in out.items()}


def main() -> None:
    adapter = adapter_for(EMBEDDED).load(EMBEDDED)
    model = Prunable(adapter, adapter.transformer)
    with tempfile.TemporaryDirectory() as folder:
        drawn = drawn_clips(CLIPS, *adapter.size_of(EMBEDDED), SEED)
        encode(adapter, list(drawn), Path(folder))
        data = list(LatentClips(Path(folder), adapter).samples(CLIPS, BATCH, SEED, adapter.shift))
    ways = {"sweep": model.skip_each, "naive": model.skip_each_naively}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    evaluations, results = {}, {}
    for round_ in range(ROUNDS + 1):
        for name, way in ways.items():
            model.evaluations, began = 0, time.perf_counter()
            results[name] = scores(data, way)
            if round_:
                seconds[name].append(time.perf_counter() - began)
            evaluations[name] = model.evaluations // len(data)
    identical = all(torch.equal(results["sweep"][key], results["naive"][key]) for key in results["naive"])
    ratio = median(n / s for n, s in zip(seconds["naive"], seconds["sweep"], strict=True))
    values = {
        "seed": SEED,
        "blocks": len(model.full["blocks"]),
        "clips": CLIPS,
        "block_evaluations_per_batch": evaluations,
        "identical_scores": identical,
        "time_ratio_naive_over_sweep": ratio,
        "seconds": {name: median(s) for name, s in seconds.items()},
        "rounds": ROUNDS,
    }
    print(write("stage1", "python -m benchmarks.stage1", values).read_text())


if __name__ == "__main__":
    main()
