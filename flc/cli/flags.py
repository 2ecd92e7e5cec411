"""Flags that several commands share: declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Opt = typer.Option
Flag = tuple[str, Any, Any]

RUN: list[Flag] = [
    ("model", Annotated[Path | None, Opt(help="Diffusers pipeline folder; the embedded tiny-wan when absent.")], None),
    (
        "data",
        Annotated[
            Path | None,
            Opt(help="Videos with texts beside, or a list of them; drawn clips when absent."),
        ],
        None,
    ),
    ("out", Annotated[Path, Opt(help="Folder of the run.")], Path("flc-out")),
    ("recipe", Annotated[Path | None, Opt(help="recipe.yaml, or the recipe.lock.yaml of another run.")], None),
    ("set_", Annotated[list[str], Opt("--set", metavar="A.B=C", help="Any option: pruner.samples=32. Repeatable")], []),
    ("preset", Annotated[str | None, Opt(help="Length of the stages: quick or full.")], None),
    ("seed", Annotated[int | None, Opt(help="Seed of everything drawn.")], None),
    ("resume", Annotated[bool, Opt("--resume", help="Go on in a non-empty --out.")], False),
    ("height", Annotated[int | None, Opt(help="Pixels; the model's own when absent.")], None),
    ("width", Annotated[int | None, Opt(help="Pixels.")], None),
    ("frames", Annotated[int | None, Opt(help="Frames of a clip.")], None),
    (
        "guidance",
        Annotated[
            float | None,
            Opt(help="Guidance of the teacher's rows and of an undistilled student, standard form (1 is none)."),
        ],
        None,
    ),
    ("negative_prompt", Annotated[str | None, Opt(help="Stands for the empty prompt in guidance.")], None),
    ("device", Annotated[str | None, Opt(help="cpu, cuda, cuda:1, mps, ...; the GPU that is there, else cpu.")], None),
    (
        "dtype",
        Annotated[str | None, Opt(help="bfloat16 (bf16), float32 or float16; bfloat16 on a GPU, else float32.")],
        None,
    ),
    ("engine", Annotated[str | None, Opt(help="plain, or deepspeed (under torchrun).")], None),
    ("zero", Annotated[int | None, Opt(help="ZeRO stage 1, 2 or 3, with --engine deepspeed.")], None),
    (
        "offload",
        Annotated[bool | None, Opt("--offload", help="Optimizer on the CPU, with --engine deepspeed --zero 3.")],
        None,
    ),
]
PRUNER: Flag = ("pruner", Annotated[str | None, Opt(help="Which blocks stay: elbo, uniform, ...")], None)
KEEP: Flag = (
    "keep",
    Annotated[str | None, Opt(metavar="<share>", help="Share of block parameters that stay: 0.7, or 70%.")],
    None,
)
RECOVERY: Flag = ("recovery", Annotated[str | None, Opt(help="Stage II: bernoulli, none, ...")], None)
DISTILLER: Flag = ("distiller", Annotated[str | None, Opt(help="Stage III: dmd, ...")], None)
TEACHER: Flag = ("teacher", Annotated[str | None, Opt(help="Real side of stage III: well-guided, cfg, ...")], None)
STEPS: Flag = ("steps", Annotated[int | None, Opt(help="Sampling steps of the student.")], None)
RANKS: Flag = (
    "ranks",
    Annotated[int | None, Opt(min=1, help="With --dry-run: count for so many GPUs, from the model's configs alone.")],
    None,
)
UNTIL: Flag = (
    "until",
    Annotated[str | None, Opt(help="Stop after this stage, from prepare to evaluate; --resume goes on.")],
    None,
)
STORE: Flag = (
    "store",
    Annotated[Path | None, Opt(help="Folder in which runs share finished stages.")],
    None,
)
DRY: Flag = ("dry_run", Annotated[bool, Opt("--dry-run", help="Plan, blocks, memory, time; write nothing.")], False)


def with_flags(*flags: Flag) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Give a function of one dict a typer signature made of `flags`."""

    def wrap(function: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(values)

        only = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter(n, only, default=d, annotation=a) for n, a, d in flags]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {n: a for n, a, _ in flags}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return wrap
