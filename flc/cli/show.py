"""`flc show NAME`: what an algorithm is, its options with their sources, and what to cite."""

from __future__ import annotations

import inspect

import typer

from flc.errors import PluginError
from flc.options import describe
from flc.registry import HOOKS, registry


def show(name: str) -> None:
    r = registry()
    kinds = [kind for kind in HOOKS if name in r.names(kind)]
    if not kinds:
        every = sorted({p.algorithm.name for p in r.provided})
        near = [n for n in every if name in n or n in name]
        raise PluginError(f"no algorithm named {name!r}; there are: {', '.join(near or every)}")
    for kind in kinds:
        provided, cls = r.find(kind, name), r.load(kind, name)
        typer.echo(f"{kind} {name}: {provided.algorithm.summary}")
        typer.echo(f"from {provided.origin}, {provided.algorithm.target}")
        if provided.algorithm.paper:
            typer.echo(f"cite {provided.algorithm.paper}")
        text = inspect.getdoc(inspect.getmodule(cls)) or ""
        typer.echo(f"\n{text}\n")
        section = {"pruner": "pruner", "recovery": "recovery", "distiller": "distiller", "teacher": "teacher"}.get(kind)
        for o in describe(cls.Options):  # type: ignore[attr-defined]
            limits = f" ({o.bounds})" if o.bounds else ""
            unit = f" {o.unit}" if o.unit else ""
            typer.echo(f"  {o.name}: {o.type} = {o.default}{unit}{limits}")
            typer.echo(f"      {o.about}. Source: {o.source or 'not stated'}.")
        if section:
            typer.echo(f"\nSet them with --set {section}.OPTION=VALUE.")
