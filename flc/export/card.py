"""The model card: what this is, how to call it, how it was made, what was measured, what to expect."""

from __future__ import annotations

import json
from typing import Any


def call_example(declared: dict[str, Any], repository: str = ".") -> str:
    frames, height, width = declared["size"]
    dtype, kind = declared.get("dtype", "float32"), declared.get("pipeline", "DiffusionPipeline")
    stochastic = declared["sampler"] == "sde"
    seeding = "torch.manual_seed(0)  # of the first noise and of each step's\n" if stochastic else ""
    own = "" if stochastic else "\n    generator=torch.Generator().manual_seed(0),"
    # as it was measured
    exact = "".join(f'"{name}": torch.float32, ' for name in declared["exact"])
    each = f'{{{exact}"default": torch.{dtype}}}'
    precision = "" if dtype == "float32" else f", torch_dtype={each}"
    guidance = ", ".join(f"{name}={value!r}" for name, value in declared["call"].items())
    setup = "".join(f"{line}\n" for line in declared["setup"])
    utils, image = "export_to_video", ""
    if declared["needs_first_frame"]:
        utils += ", load_image"
        image = f'\n    image=load_image("first.png").resize(({width}, {height})),'
    return f"""import torch
from diffusers import {kind}
from diffusers.utils import {utils}

pipe = {kind}.from_pretrained("{repository}"{precision})
{setup}{seeding}video = pipe(
    prompt={json.dumps(declared["example"], ensure_ascii=False)},{image}
    height={height}, width={width}, num_frames={frames},
    num_inference_steps={declared["steps"]}, {guidance},{own}
).frames[0]
export_to_video(video, "clip.mp4", fps={declared.get("fps", 16)})"""


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    head = "| " + " | ".join(columns) + " |"
    lines = [head, "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(str(row.get(c, "")) for c in columns) + " |")
    return "\n".join(lines)


def model_card(declared: dict[str, Any], rows: list[dict[str, Any]], columns: list[str], recipe: str) -> str:
    base, sampler, suite = declared["base_model"], declared["sampler"], declared["suite"]
    measured = "" if suite == "shapes" else f"VBench (suite `{suite}`). "
    repeat = (
        "`torch.manual_seed` alone fixes the result (the pipeline passes a `generator` to the first noise only; one of"
        " the same seed would have that noise drawn a second time)"
        if sampler == "sde"
        else "`generator` alone fixes the result"
    )
    free = declared["guidance"] == 1
    guidance = "no guidance" if free else f"guidance {declared['guidance']:g}"
    limit = (
        f"- Guidance is distilled in: `{declared['guidance_argument']}` above 1 is off the training distribution."
        if free
        else "- Steps and guidance are the base model's kind: nothing was distilled."
    )
    ffn = "".join(
        f" Its feed-forward layers were narrowed to {n} channels." for n in (declared.get("ffn") or {}).values()
    )
    licence = declared["license"]
    if licence == "other":  # the hub asks for a name then
        licence += "\nlicense_name: that-of-the-base-model"
    kept = "; ".join(f"{s}: {', '.join(map(str, b))}" for s, b in declared["kept"].items())
    return f"""---
license: {licence}
base_model: {base}
library_name: diffusers
pipeline_tag: {"image" if declared["needs_first_frame"] else "text"}-to-video
tags: [flc, distillation, pruning]
---

# {declared["steps"]}-step student of {base}

{declared["parameters"] / 1e6:.2f}M transformer parameters ({declared["share"]:.0%} of the base transformer's blocks
by parameters), {declared["steps"]} sampling steps, {guidance}. Made with flc: pruner `{declared["pruner"]}`,
recovery `{declared["recovery"]}`, distiller `{declared["distiller"]}`, teacher `{declared["teacher"]}`.

```python
{call_example(declared)}
```

Sampler `{sampler}`: {repeat}. The folder's scheduler gives the trained sigmas
{", ".join(f"{s:.4f}" for s in declared["sigmas"])} at `num_inference_steps={declared["steps"]}`; other step counts
leave the schedule it was trained on.

## Measured

{table(rows, columns)}

{measured}Means over generated clips, on the machine that made this student.

## Limits

- Trained at {declared["size"][0]} frames of {declared["size"][1]}x{declared["size"][2]}; other sizes are untested.
{limit}
- The base model's licence and limits hold. Blocks of the base model that were kept: {kept}.{ffn} A LoRA of the base
  model does not fit: its blocks carry other numbers here.

## Recipe

```yaml
{recipe.strip()}
```
"""
