"""What no row can be above: drawn clips, encoded and decoded by the embedded model's autoencoder, under the suite.

    python -m benchmarks.ceiling [--seeds 0 1 2]

The drawn clips themselves stand beside them: what the autoencoder alone costs.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.common import spread, write
from flc.data.source import drawn_clips
from flc.evaluate.clips import Clips
from flc.evaluate.metrics import average
from flc.evaluate.suite import metrics
from flc.models.folder import EMBEDDED, adapter_for

CLIPS, REFERENCE, BATCH = 192, 288, 24


def clips(count: int, size: tuple[int, int, int], seed: int) -> Clips:
    """Drawn clips, every second one as if its first frame had been given."""
    pairs = list(drawn_clips(count, *size, seed))
    videos = np.stack([video for video, _ in pairs])
    return Clips(videos, tuple(caption for _, caption in pairs), videos[:, 0], np.arange(count) % 2 == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    adapter = adapter_for(EMBEDDED).load(EMBEDDED)
    size = adapter.size_of(EMBEDDED)
    found: dict[str, list[dict[str, float]]] = {"drawn": [], "through the autoencoder": []}
    for seed in args.seeds:
        # the seeds of `flc evaluate`: the prompts' clips, and those that they are compared with
        drawn, reference = (clips(n, size, seed + k) for n, k in ((CLIPS, 7919), (REFERENCE, 104_729)))
        parts = [adapter.decode(adapter.encode(drawn.video[i : i + BATCH])) for i in range(0, CLIPS, BATCH)]
        decoded = Clips(np.concatenate(parts), drawn.captions, drawn.first_frames, drawn.given)
        for name, shown in zip(found, (drawn, decoded), strict=True):
            scores = {metric: m.score(shown, reference) for metric, m in metrics().items()}
            found[name].append({"average": average(scores)} | {metric: s.value for metric, s in scores.items()})
    rows = {name: {k: spread([s[k] for s in seeds]) for k in seeds[0]} for name, seeds in found.items()}
    write("ceiling", "python -m benchmarks.ceiling", {"seeds": args.seeds, "clips": CLIPS, "rows": rows})
    for name, row in rows.items():
        print(name, {k: f"{v['mean']:.4f} ± {v['spread']:.4f}" for k, v in row.items()})


if __name__ == "__main__":
    main()
