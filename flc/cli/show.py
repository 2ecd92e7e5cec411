"""`flc show NAME`: what an algorithm is, its options with their sources, and what to cite."""

from __future__ import annotations

import inspect

import typer

from flc.errors import PluginError
from flc.options import describe
from flc.recipe import ALGORITHMS, preset_values
from flc.registry import HOOKS, registry


def preset_options(kind: str, name: str) -> dict[str, str]:
    """What presets set instead of the defaults, by option: the values of both kinds of model in words."""
    words: dict[str, list[str]] = {}
    for embedded, model in ((True, "embedded model"), (False, "other models")):
        for preset in ("quick", "full"):
            values = preset_values(embedded, preset).get("algorithms", {}).get(kind, {}).get(name, {})
            for option, value in values.items():
                words.setdefault(option, []).append(f"{value} ({model}, {preset})")
    return {option: ", ".join(found) for option, found in words.items()}


def show(name: str) -> None:
    r = registry()
    kinds = [kind for kind in HOOKS if name in r.names(kind)]
    if not kinds:
        raise PluginError(r.unknown(name))
    if "model" in kinds:
        from flc.models.quiet import hush

        hush()
    for kind in kinds:
        provided, cls = r.find(kind, name), r.load(kind, name)
        typer.echo(f"{kind} {name}: {provided.algorithm.summary}")
        typer.echo(f"from {provided.origin}, {provided.algorithm.target}")
        if provided.algorithm.paper:
            typer.echo(f"cite {provided.algorithm.paper}")
        text = inspect.getdoc(inspect.getmodule(cls)) or ""
        typer.echo(f"\n{text}\n")
        presets = preset_options(kind, name) if kind in ALGORITHMS else {}
        for o in describe(cls.Options):  # type: ignore[attr-defined]
            limits = f" ({o.bounds})" if o.bounds else ""
            unit = f" {o.unit}" if o.unit else ""
            typer.echo(f"  {o.name}: {o.type} = {o.default}{unit}{limits}")
            typer.echo(f"      {o.about}. Source: {o.source or 'not stated'}.")
            if o.name in presets:
                typer.echo(f"      Presets, ours: {presets[o.name]}.")
        if kind in ALGORITHMS and cls.Options.model_fields:  # type: ignore[attr-defined]
            typer.echo(f"\nSet them with --set {kind}.OPTION=VALUE.")
