"""Yields a string instead of an Algorithm."""

from flc import hookimpl


@hookimpl
def flc_pruners():
    yield "just-a-name"
