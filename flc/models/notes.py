"""`flc.json`, beside a folder's model_index.json: what a pipeline is meant for, and what a student declares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flc.errors import UserError
from flc.models.folder import NOTES, read_json
from flc.options import LARGEST

STUDENT = "student.json"
Whole = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Notes(BaseModel):
    """The entries that flc itself goes by; others pass."""

    model_config = ConfigDict(extra="allow")
    size: tuple[Whole, Whole, Whole] | None = None
    """Frames, height, width."""
    guidance: Annotated[Number, Field(ge=1)] | None = None
    embedded_guidance: Annotated[Number, Field(ge=0)] | None = None
    steps: Whole | None = None
    shift: Annotated[Number, Field(gt=0)] | None = None
    sigmas: list[Number] | None = None
    fps: Whole | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    base_model: str | None = None


class Student(Notes):
    """`student.json`: what stage III says of the student, all of it needed."""

    steps: Whole
    guidance: Annotated[Number, Field(ge=1)]
    shift: Annotated[Number, Field(gt=0)]
    sigmas: list[Number]
    sampler: Literal["sde", "ode"]
    recovery: str
    distiller: str
    teacher: str


def read_notes(folder: Path) -> dict[str, Any]:
    """The folder's notes, without entries that are null; empty when there is no file."""
    path = folder / NOTES
    values = checked(path, Notes, "mend that entry, or remove it") if path.exists() else {}
    if "sigmas" in values and "steps" not in values:
        raise UserError(f"{path}: sigmas without steps: add how many steps they are for, or remove them")
    return values


def read_student(path: Path) -> dict[str, Any]:
    """What a `student.json` declares."""
    return checked(path, Student, "it is written by `flc distill`")


def checked(path: Path, model: type[Notes], way_out: str) -> dict[str, Any]:
    values = {name: value for name, value in read_json(path).items() if value is not None}
    try:
        model(**values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: {where} {fault['msg']}: {way_out}") from error
    return values
