"""The commands."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from flc.cli import flags as f
from flc.installed import forgive

app = typer.Typer(
    name="flc",
    help="Fewer steps, fewer blocks: compress video diffusion transformers.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flc {version('flc')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Print flc's version.")
    ] = False,
) -> None:
    """Fewer steps, fewer blocks: compress video diffusion transformers."""
    forgive()


@app.command()
@f.with_flags(f.PRUNER, f.KEEP, f.RECOVERY, f.DISTILLER, f.TEACHER, f.STEPS, *f.RUN, f.UNTIL, f.STORE, f.DRY, f.RANKS)
def compress(values: dict[str, Any]) -> None:
    """All stages: a few-step student with fewer blocks, as a stock diffusers pipeline."""
    from flc.run.compress import compress as run

    run(values)


PLAN: f.Flag = ("plan", Annotated[Path | None, f.Opt(help="Folder of flc score; OUT/score when absent.")], None)
WEIGHTS: f.Flag = (
    "weights",
    Annotated[Path | None, typer.Option(help="Transformer folder to start from; the stage before in OUT when absent.")],
    None,
)


@app.command()
@f.with_flags(*f.RUN)
def prepare(values: dict[str, Any]) -> None:
    """Encode the clips that training reads. Writes OUT/prepare."""
    from flc.run.compress import run_one

    run_one("prepare", values)


@app.command()
@f.with_flags(f.PRUNER, f.KEEP, *f.RUN)
def score(values: dict[str, Any]) -> None:
    """Stage I: score blocks and choose which stay. Writes OUT/score."""
    from flc.run.compress import run_one

    run_one("score", values)


@app.command()
@f.with_flags(PLAN, *f.RUN)
def prune(values: dict[str, Any]) -> None:
    """Remove the blocks outside a plan. Writes OUT/prune/transformer."""
    from flc.run.compress import run_one

    run_one("prune", values)


@app.command()
@f.with_flags(f.RECOVERY, PLAN, *f.RUN)
def recover(values: dict[str, Any]) -> None:
    """Stage II: train the network to work without the removed blocks. Writes OUT/recover."""
    from flc.run.compress import run_one

    run_one("recover", values)


@app.command()
@f.with_flags(f.DISTILLER, f.TEACHER, f.STEPS, PLAN, WEIGHTS, *f.RUN)
def distill(values: dict[str, Any]) -> None:
    """Stage III: distil the pruned network into a few-step generator. Writes OUT/distill."""
    from flc.run.compress import run_one

    run_one("distill", values)


@app.command()
@f.with_flags(PLAN, WEIGHTS, *f.RUN)
def export(values: dict[str, Any]) -> None:
    """Write OUT/pipeline: a stock diffusers folder with the student and its schedule."""
    from flc.run.compress import run_one

    run_one("export", values)


PIPELINE: f.Flag = (
    "pipeline",
    Annotated[Path | None, typer.Option(help="A diffusers folder, or a run's, to measure alone, in a new OUT.")],
    None,
)


SUITE: f.Flag = ("suite", Annotated[str | None, f.Opt(help="shapes, vbench or vbench-i2v.")], None)
MANIFEST: f.Flag = (
    "manifest",
    Annotated[Path | None, f.Opt(help="JSON lines of prompts and images; the suite's own when absent.")],
    None,
)


@app.command()
@f.with_flags(PIPELINE, SUITE, MANIFEST, *f.RUN)
def evaluate(values: dict[str, Any]) -> None:
    """Measure the finished run in OUT, or one pipeline: videos, metrics.json, the table."""
    from flc.run.compress import run_one

    run_one("evaluate", values)


@app.command()
@f.with_flags(*f.RUN)
def report(values: dict[str, Any]) -> None:
    """Write OUT/report.html and the model card."""
    from flc.run.compress import run_one

    run_one("report", values)


@app.command()
def generate(
    pipeline: Annotated[Path, typer.Argument(help="Diffusers pipeline folder, or a run's: of OUT it is OUT/pipeline.")],
    prompt: Annotated[str, typer.Option(help="What to show.")],
    image: Annotated[Path | None, typer.Option(help="First frame, for image-to-video.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the student's own when absent.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 for a student.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...; auto is the GPU that is there.")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="bfloat16 (bf16), float32 or float16; auto is a student's own, else bfloat16 on a GPU."),
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The video: .mp4, .gif or .webp.")] = Path("clip.mp4"),
) -> None:
    """Generate a clip with the stock pipeline of a folder."""
    from flc.run.generate import generate as run

    run(pipeline, prompt, image, seed, steps, guidance, height, width, frames, negative_prompt, device, dtype, out)


@app.command()
def plugins(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """List algorithms, where they come from, and plugins that are broken."""
    from flc.registry import registry

    r = registry()
    if as_json:
        rows = [{"kind": p.kind, "name": p.algorithm.name, "summary": p.algorithm.summary, "paper": p.algorithm.paper,
                 "api": p.algorithm.api, "entry_point": p.entry, "distribution": p.distribution,
                 "version": p.version} for p in r.provided]  # fmt: skip
        typer.echo(json.dumps({"algorithms": rows, "broken": [vars(b) for b in r.broken]}, indent=1))
        return
    width = max((len(p.algorithm.name) for p in r.provided), default=0)
    for kind in dict.fromkeys(p.kind for p in r.provided):
        typer.echo(kind)
        for p in sorted((p for p in r.provided if p.kind == kind), key=lambda p: p.algorithm.name):
            typer.echo(f"  {p.algorithm.name:<{width}}  {p.algorithm.summary}  [{p.distribution} {p.version}]")
    if r.broken:
        typer.echo("broken")
        for b in r.broken:
            typer.echo(f"  {b.entry}  {b.cause}  [{b.distribution} {b.version}]")


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(help="Name of an algorithm, a command, or a stage: prepare, score, recover, distill, evaluate."),
    ],
) -> None:
    """Print an algorithm's options, their sources, and its citation; a command's options."""
    from flc.cli.show import show as run

    run(name)
