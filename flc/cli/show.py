"""`flc show NAME`: what an algorithm is, its options with their sources, and what to cite; a stage's options; a
command's flags and the sections of a recipe that it reads."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from pydantic import BaseModel

from flc.api import Kind
from flc.errors import PluginError
from flc.options import describe
from flc.recipe import ALGORITHMS, STAGE_OPTIONS, Recipe, preset_values
from flc.registry import HOOKS, registry

#: The sections of a recipe that each command reads; a pruner may ask for some of stage II before it scores.
READ: dict[str, tuple[str, ...]] = {
    "compress": (*STAGE_OPTIONS, *ALGORITHMS),
    "score": ("prepare", "score", "recover", "pruner", "recovery"),
    "recover": ("prepare", "recover", "recovery"),
    "distill": ("prepare", "distill", "distiller", "teacher"),
    "evaluate": ("prepare", "evaluate"),
}


def preset_options(*place: str) -> dict[str, str]:
    """What presets set instead of the defaults at a place of theirs, by option: the values of both kinds of model."""
    words: dict[str, list[str]] = {}
    for embedded, model in ((True, "embedded model"), (False, "other models")):
        for preset in ("quick", "full"):
            values: dict[str, Any] = preset_values(embedded, preset)
            for name in place:
                values = values.get(name, {})
            for option, value in values.items():
                words.setdefault(option, []).append(f"{value} ({model}, {preset})")
    return {option: ", ".join(found) for option, found in words.items()}


def show_options(options: type[BaseModel], presets: dict[str, str]) -> None:
    for o in describe(options):
        limits = f" ({o.bounds})" if o.bounds else ""
        unit = f" {o.unit}" if o.unit else ""
        typer.echo(f"  {o.name}: {o.type} = {o.default}{unit}{limits}")
        typer.echo(f"      {o.about}. Source: {o.source or 'not stated'}.")
        if o.name in presets:
            typer.echo(f"      Presets, ours: {presets[o.name]}.")


def show_stage(name: str) -> None:
    typer.echo(f"stage {name}: how long it runs, and on what\n")
    show_options(STAGE_OPTIONS[name], preset_options(name))
    typer.echo(f"\nSet them with --set {name}.OPTION=VALUE.")


def show_command(name: str, command: Any) -> None:
    context = typer.Context(command, info_name=name)
    typer.echo(f"command flc {name}: {command.help}\n")
    for parameter in command.get_params(context):
        flag, about = parameter.get_help_record(context)
        typer.echo(f"  {flag}\n      {about}")
    if name not in READ:
        return
    typer.echo("\nIt reads these sections of a recipe, set with --recipe FILE or --set SECTION.OPTION=VALUE:\n")
    for section in READ[name]:
        if section in STAGE_OPTIONS:
            typer.echo(f"  {section}: flc show {section}")
            continue
        chosen, kind = getattr(Recipe(), section).name, section
        others = sorted(set(registry().names(kind)) - {chosen})  # type: ignore[arg-type]
        typer.echo(f"  {section}: flc show {chosen}, or of {', '.join(others)}")


def show(name: str) -> None:
    from flc.cli.app import app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if name in STAGE_OPTIONS:
        show_stage(name)
        if name in commands:
            typer.echo("")
    if name in commands:
        show_command(name, commands[name])
    if name in STAGE_OPTIONS or name in commands:
        return
    r = registry()
    kinds = [kind for kind in HOOKS if name in r.names(kind)]
    if not kinds:
        raise PluginError(r.unknown(name))
    if "model" in kinds:
        from flc.models.quiet import hush

        hush()
    for kind in kinds:
        show_algorithm(kind, name)


def show_algorithm(kind: Kind, name: str) -> None:
    provided, cls = registry().find(kind, name), registry().load(kind, name)
    typer.echo(f"{kind} {name}: {provided.algorithm.summary}")
    typer.echo(f"from {provided.origin}, {provided.algorithm.target}")
    if provided.algorithm.paper:
        typer.echo(f"cite {provided.algorithm.paper}")
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    typer.echo(f"\n{text}\n")
    options = cls.Options  # type: ignore[attr-defined]
    show_options(options, preset_options("algorithms", kind, name) if kind in ALGORITHMS else {})
    if kind in ALGORITHMS and options.model_fields:
        typer.echo(f"\nSet them with --set {kind}.OPTION=VALUE.")
