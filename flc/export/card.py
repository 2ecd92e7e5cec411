"""The model card: what this is, how to call it, how it was made, what was measured, what to expect."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml


def call_example(declared: dict[str, Any], repository: str = ".") -> str:
    """Python that runs with diffusers' own requirements: a writer of mp4 is none of them."""
    frames, height, width = declared["size"]
    fps = declared.get("fps", 16)
    dtype, kind = declared.get("dtype", "float32"), declared.get("pipeline", "DiffusionPipeline")
    stochastic = declared["sampler"] == "sde"
    seeding = "torch.manual_seed(0)  # of the first noise and of each step's\n" if stochastic else ""
    own = "" if stochastic else "\n    generator=torch.Generator().manual_seed(0),"
    # as it was measured
    exact = "".join(f'"{name}": torch.float32, ' for name in declared["exact"])
    each = f'{{{exact}"default": torch.{dtype}}}'
    precision = "" if dtype == "float32" else f", dtype={each}"
    guidance = ", ".join(f"{name}={value!r}" for name, value in declared["call"].items())
    setup = "".join(f"{line}\n" for line in declared["setup"])
    utils = image = ""
    if declared["needs_first_frame"]:
        utils = "from diffusers.utils import load_image\n"
        image = f'\n    image=load_image("first.png").resize(({width}, {height})),'
    return f"""import torch
from diffusers import {kind}
{utils}
pipe = {kind}.from_pretrained("{repository}"{precision})
{setup}{seeding}frames = pipe(
    prompt={json.dumps(declared["example"], ensure_ascii=False)},{image}
    height={height}, width={width}, num_frames={frames},
    num_inference_steps={declared["steps"]}, {guidance},{own}
    output_type="pil",
).frames[0]
frames[0].save("clip.webp", save_all=True, append_images=frames[1:], duration={round(1000 / fps)}, quality=90)"""


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    lines = [[plain(c) for c in columns], ["---"] * len(columns)]
    lines += [[plain(str(row.get(c, ""))) for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(text: str) -> str:
    """In Markdown, on one line, as it stands here; an underscore between letters marks nothing up."""
    return re.sub(r"([\\`*\[\]<>|&~#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))


def block(language: str, code: str) -> str:
    """A block of code, between fences that are in no line of it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", code)), 3)
    return f"{fence}{language}\n{code}\n{fence}"


def front_matter(declared: dict[str, Any]) -> str:
    """What the hub reads of a card."""
    facts: dict[str, Any] = {"license": declared["license"]}
    if declared["license"] == "other":  # the hub asks for a name then
        facts["license_name"] = "that-of-the-base-model"
    facts |= {"base_model": declared["base_model"], "library_name": "diffusers"}
    facts["pipeline_tag"] = f"{'image' if declared['needs_first_frame'] else 'text'}-to-video"
    facts["tags"] = ["flc", "distillation", "pruning"]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=math.inf)


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
    kept = "; ".join(f"{s}: {', '.join(map(str, b))}" for s, b in declared["kept"].items())
    return f"""---
{front_matter(declared)}---

# {declared["steps"]}-step student of {plain(base)}

{declared["parameters"] / 1e6:.2f}M transformer parameters ({declared["share"]:.0%} of the base transformer's blocks
by parameters), {declared["steps"]} sampling steps, {guidance}. Made with flc: pruner `{declared["pruner"]}`,
recovery `{declared["recovery"]}`, distiller `{declared["distiller"]}`, teacher `{declared["teacher"]}`.

{block("python", call_example(declared))}

It needs stock diffusers: `pip install torch diffusers transformers accelerate ftfy`. For an mp4, `pip install imageio
imageio-ffmpeg`, and `diffusers.utils.export_to_video(frames, "clip.mp4", fps={declared.get("fps", 16)})` in the last
line's place.

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

{block("yaml", recipe.strip())}
"""
