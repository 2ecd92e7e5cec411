"""Entries of a stock class's config, held against what its constructor says of them: diffusers takes them as they come,
and trips over one when it is first computed with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flc.errors import UserError


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON may stand where this is expected. `tuple[int]` is taken for any number of them, as
    diffusers means it; what JSON cannot hold fits nothing, and a hint of another kind says nothing."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint in (None, NoneType):
        return value is None
    if hint is bool or isinstance(value, bool):
        return isinstance(value, bool) and hint in (bool, Any)
    if hint is float:
        return isinstance(value, int | float)
    if hint in (int, str, dict):
        return isinstance(value, hint)
    if (origin or hint) in (list, tuple):
        kinds = [one for one in inner if one is not Ellipsis] or [Any]
        return isinstance(value, list | tuple) and all(any(fits(v, one) for one in kinds) for v in value)
    return hint is Any


def check_types(cls: Any, values: Mapping[str, Any], path: Path) -> None:
    """`UserError` for an entry of another type than the constructor of `cls` says, or than its default: where that is
    none of the type, the hint is wrong; None may stand wherever it is the default."""
    try:
        hints = get_type_hints(inspect.unwrap(cls.__init__))
    except (NameError, TypeError):  # a name that is imported for type checkers alone
        return
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        hint, default = hints.get(name, Any), parameter.default
        if name not in values or fits(values[name], hint) or values[name] is None is default:
            continue
        if default in (None, parameter.empty) or fits(default, hint):
            wanted = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
            raise UserError(f"{path}: {name}={values[name]!r:.80} is no {wanted}: mend that entry")
