"""Brightness of a student's clips from text after each of its steps, against the teacher's and the drawn clips'.

    python -m benchmarks.drift --run flc-out

No score names it: `distribution` sees it among other things. Mean over clips of a clip's mean pixel, and its standard
deviation over clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import write
from flc.api import View
from flc.data.source import drawn_clips
from flc.draws import StepDraws
from flc.evaluate.sampling import Row, condition, generate, make_prompts
from flc.models.folder import EMBEDDED, NOTES, adapter_for, read_json
from flc.rollout import rollout
from flc.train.nets import RoleNet

SEED, CLIPS, BATCH = 0, 192, 24


def brightness(video: np.ndarray) -> dict[str, float]:
    each = video.reshape(len(video), -1).mean(1)
    return {"mean": float(each.mean()), "spread": float(each.std())}


def after_each_step(folder: Path, prompts: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Decoded estimates x0_hat, one step further each."""
    declared, adapter = read_json(folder / NOTES), adapter_for(folder).load(folder)
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    cond = condition(adapter, prompts, "", declared["size"][0])
    schedule = adapter.schedule(declared["steps"], declared["shift"], declared["sampler"])
    for last in range(declared["steps"]):
        parts = []
        for i in range(0, CLIPS, BATCH):
            draws, some = StepDraws(SEED, "drift", i), cond[slice(i, i + BATCH)]
            noise = draws.normal(torch.empty(len(some), *adapter.latent_shape(*declared["size"])))
            with torch.no_grad():
                x = rollout(net, noise, some, schedule.sigmas, last, schedule.sampler, draws)
            parts.append(adapter.decode(x))
        yield f"student, after step {last + 1}", np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    teacher = adapter_for(EMBEDDED).load(EMBEDDED)
    size = teacher.size_of(EMBEDDED)
    prompts = make_prompts(list(drawn_clips(CLIPS // 2, *size, SEED + 7919)), 2, 0.0, SEED)
    net = RoleNet(teacher, teacher.transformer, teacher.transformer, View())
    guidance = teacher.notes["guidance"]
    row = Row("teacher", "teacher, 50 steps, guided", net, teacher.teacher_scheduler(), 50, guidance, 0)
    drawn = np.stack([video for video, _ in drawn_clips(288, *size, SEED + 104_729)])
    rows = {"drawn": brightness(drawn)}
    cond = condition(teacher, prompts, "", size[0])
    made, _ = generate(teacher, row, prompts, cond, teacher.latent_shape(*size), BATCH, lambda: None)
    rows[row.title] = brightness(made.video)
    rows |= {title: brightness(video) for title, video in after_each_step(args.run / "pipeline", prompts)}
    write("drift", f"python -m benchmarks.drift --run {args.run.name}", {"seed": SEED, "clips": CLIPS, "rows": rows})
    for title, values in rows.items():
        print(f"{title:28} {values['mean']:.3f} ± {values['spread']:.3f}")


if __name__ == "__main__":
    main()
