"""The embedded model itself: is what the caption says in the clip? Guided, 50 steps, every caption.

    python -m benchmarks.teacher [--model DIR] [--seeds 2] [--guidance 4.0 ...]

Text-to-video and image-to-video apart. The sampler is the batched one of `flc evaluate`, which tests hold to
the stock pipelines' frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write
from flc.api import View
from flc.data.shapes import all_captions, draw, sample_spec
from flc.data.source import drawn_clips
from flc.evaluate.clips import Clips
from flc.evaluate.sampling import Row, condition, generate, make_prompts
from flc.evaluate.suite import score_row
from flc.models.folder import EMBEDDED, adapter_for
from flc.train.nets import RoleNet

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--captions", type=int, default=len(all_captions()))
    parser.add_argument("--guidance", type=float, nargs="*")
    parser.add_argument("--name", default="teacher")
    args = parser.parse_args()
    adapter = adapter_for(args.model).load(args.model)
    size: tuple[int, int, int] = adapter.size_of(args.model)
    rng = np.random.default_rng([SEED, 2])
    captions = [all_captions()[i] for i in rng.permutation(len(all_captions()))[: args.captions]]
    asked = [(draw(sample_spec(rng, text), *size), text) for text in captions]
    drawn = list(drawn_clips(192, *size, SEED + 104_729))
    videos = np.stack([v for v, _ in drawn])
    reference = Clips(videos, tuple(c for _, c in drawn), videos[:, 0], np.zeros(len(drawn), bool))
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    parameters = sum(p.numel() for p in adapter.transformer.parameters())
    results: list[dict[str, Any]] = []
    for guidance in args.guidance or [adapter.guidance_of(args.model)]:
        tasks = (("text-to-video", 0.0), ("image-to-video", 1.0))
        for task, share in tasks[adapter.needs_first_frame :]:
            prompts = make_prompts(asked, args.seeds, share, SEED)
            cond = condition(adapter, prompts, "", size[0])
            row = Row(
                task,
                f"{task}, guidance {guidance:g}",
                net,
                adapter.teacher_scheduler(),
                args.steps,
                guidance,
                parameters,
            )
            made, seconds = generate(adapter, row, prompts, cond, adapter.latent_shape(*size), 48, lambda: None)
            results.append(score_row(row, made, reference, seconds) | {"clips": len(made)})
            r = results[-1]
            print(
                r["title"],
                r["words"],
                {k: v and round(v, 3) for k, v in r["scores"].items()},
                round(r["average"], 4),
                flush=True,
            )
    write(args.name, "python -m benchmarks.teacher", {"seed": SEED, "rows": results})


if __name__ == "__main__":
    main()
