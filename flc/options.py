"""Options from outside: raw strings into pydantic models, and their errors into one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flc.errors import UnknownOption, UserError
from flc.files import parse_json

M = TypeVar("M", bound=BaseModel)
#: Of frames, pixels of a side and steps; more is a slip, and more than any machine has memory for.
LARGEST = 2**16
#: Characters of a value that a message repeats.
LONGEST = 200


def shortened(text: str) -> str:
    """For a message: of a long text its beginning."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def parse_set(items: list[str]) -> dict[str, dict[str, Any]]:
    """`["pruner.samples=32"]` to `{"pruner": {"samples": "32"}}`.

    Values stay strings for pydantic to read; only those that begin with `[` or `{` are JSON.
    """
    out: dict[str, dict[str, Any]] = {}
    for item in items:
        key, equals, raw = item.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and section and name):
            raise UnknownOption(f"--set {shortened(item)!r} is not of the form section.option=value", "", "", key)
        value: Any = raw
        if raw[:1] in "[{" and raw:
            try:
                value = parse_json(raw)
            except ValueError as error:
                raise UserError(f"--set {shortened(item)!r}: not JSON: {error}") from error
        out.setdefault(section, {})[name] = value
    return out


def _nested(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that a location of an error is in."""
    for name in path:
        info = model.model_fields.get(str(name))
        if info is None or not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            break
        model = info.annotation
    return model


def shares(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """`70%` is .7 wherever a number with a fraction is asked for, in a section of `model`, too."""
    out = dict(values)
    for name, value in values.items():
        kind = info.annotation if (info := model.model_fields.get(name)) else None
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            out[name] = shares(kind, value)
        elif kind in (float, float | None) and isinstance(value, str) and value.endswith("%"):
            with suppress(InvalidOperation):  # pydantic says what is wrong with it
                out[name] = float(Decimal(value[:-1]) / 100)  # of 33.3 it is 0.333, which it is not of the float
    return out


def checked(model: type[M], values: dict[str, Any], where: str) -> M:
    """An instance of `model`; the first problem as one line that names the option and the nearest ones."""
    try:
        return model.model_validate(shares(model, values))
    except ValidationError as error:
        first = error.errors()[0]
        path = shortened(".".join([where, *map(str, first["loc"])]))
        if first["type"] == "extra_forbidden":
            names = list(_nested(model, first["loc"][:-1]).model_fields)
            near = difflib.get_close_matches(str(first["loc"][-1]), names, n=2, cutoff=0.5)
            way = f"did you mean {' or '.join(near)}?" if near else f"options are: {', '.join(names) or 'none'}"
            *_, section, name = where, *map(str, first["loc"])
            raise UnknownOption(f"unknown option {path}", way, section, name) from error
        said = shortened(first["msg"].removeprefix("Value error, "))
        raise UserError(f"{path}={shortened(repr(first['input']))}: {said}") from error


@dataclass(frozen=True)
class OptionInfo:
    name: str
    type: str
    default: Any
    bounds: str
    unit: str
    source: str
    about: str


def describe(model: type[BaseModel]) -> Iterator[OptionInfo]:
    """What `flc show` prints of a class of options."""
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        bounds = []
        for constraint in info.metadata:
            for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
                limit = getattr(constraint, attribute, None)
                if limit is not None:
                    bounds.append(f"{sign} {limit}")
        kind = info.annotation.__name__ if isinstance(info.annotation, type) else str(info.annotation)
        kind = kind.replace("typing.", "")
        text = (str(extra.get("unit", "")), str(extra.get("source", "")), info.description or "")
        yield OptionInfo(name, kind, info.default, ", ".join(bounds), *text)
