"""A recipe: everything a run is determined by. defaults < preset < recipe.yaml < flags < `--set`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationInfo, field_validator

from flc.api import Kind, Options, option
from flc.errors import UserError
from flc.files import parse_yaml, read_text
from flc.options import LARGEST, checked, shortened
from flc.registry import registry

PRESETS = Path(__file__).parent / "assets" / "presets"
#: Bytes of a recipe; a lock file has five thousand.
LONGEST = 250_000
AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
#: Names that people use for them, too.
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
PACKAGES = ("flc", "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "deepspeed")


class Choice(BaseModel):
    """An algorithm by name, with its options: `pruner: {name: elbo, samples: 64}` or just `pruner: elbo`."""

    model_config = {"frozen": True, "extra": "allow"}
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DataStage(Options):
    clips: int = option(1024, "clips encoded for stages I and II, and for prompts", "ours", ge=2)


class ScoreStage(Options):
    batch: int = option(16, "noised clips in one evaluation, over all ranks", "ours", ge=1)
    given_share: float | None = option(
        None, "share of those clips with a given first frame; default recover.given_share", "ours", ge=0, le=1
    )
    time_min: float = option(0.02, "smallest time at which they are noised", "ours", ge=0, lt=1)
    time_max: float = option(0.98, "largest such time", "ours", gt=0, le=1)

    @field_validator("time_max")
    @classmethod
    def _not_before_time_min(cls, time_max: float, others: ValidationInfo) -> float:
        if time_max < others.data.get("time_min", 0):
            raise ValueError(f"should be no less than time_min, {others.data['time_min']}")
        return time_max


class TrainStage(Options):
    iterations: int = option(1000, "iterations of the stage", "ours", ge=0)
    batch: int = option(16, "global batch, over all ranks", "paper", "clips", ge=1)
    accumulate: int = option(
        1, "parts that a rank's share of a batch is taken in, one after another: less memory, more time", "ours", ge=1
    )
    save_every: int = option(100, "iterations between checkpoints", "ours", ge=1)
    log_every: int = option(10, "iterations between lines of the log", "ours", ge=1)
    decay: bool = option(False, "linear decay of the learning rates over the last half", "ours")
    given_share: float = option(0.5, "share of samples with a given first frame", "ours", ge=0, le=1)
    checkpointing: bool = option(False, "recompute blocks in backward: less memory, more time", "ours")
    check_every: int = option(50, "iterations between looks at how the student does; 0 never", "ours", ge=0)
    check_clips: int = option(8, "clips of such a look", "ours", ge=2)


class RecoverStage(TrainStage):
    iterations: int = option(4000, "iterations of the stage", "paper", ge=0)
    drop_text: float = option(
        0.1, "share of samples whose text is the empty (or negative) prompt, as guided sampling asks for", "ours", ge=0,
        le=1,
    )  # fmt: skip


class DistillStage(TrainStage):
    iterations: int = option(
        5000, "iterations of the stage", "paper's 1000 updates of the generator, one in five iterations (ours)", ge=0
    )
    real: Literal["original", "recovered"] | None = option(
        None, "the teacher's unpruned network: the model's own, or the one that stage II hands on, all blocks in (the "
        "paper's); default: the one that stage II is anchored to", "ours",
    )  # fmt: skip


RowName = Literal["teacher-many", "teacher-few-guided", "teacher-few", "pruned", "recovered", "student"]


class EvaluateStage(Options):
    clips: int = option(48, "clips a row is judged by", "ours", ge=2)
    seeds: int = option(2, "clips of one prompt, each from another seed", "ours", ge=1)
    reference: int = option(192, "drawn clips, or the user's, that they are compared with", "ours", ge=8)
    teacher_steps: int = option(50, "steps of the undistilled networks", "paper", ge=1)
    given_share: float = option(0.5, "share of prompts with a given first frame", "ours", ge=0, le=1)
    batch: int = option(24, "clips sampled at once", "ours", ge=1)
    videos: int = option(6, "clips of each row written as mp4", "ours", ge=0)
    rows: tuple[RowName, ...] = option((), "which rows, names with commas between; all when empty", "ours")
    suite: Literal["shapes", "vbench", "vbench-i2v"] = option(
        "shapes", "our metrics of drawn clips, or VBench's", "ours"
    )
    manifest: str | None = option(None, "JSON lines of prompts and images; the suite's own when absent", "ours")
    vbench_python: str | None = option(
        None, "python of an environment that has the package vbench; $FLC_VBENCH_PYTHON when absent", "ours",
        program=True,
    )  # fmt: skip
    vbench_data: str | None = option(None, "folder of a VBench checkout with its prompts and images", "ours")
    fps: int | None = option(
        None, "frames a second of VBench's videos; the model's own when absent", "ours", ge=1, le=1000
    )
    lpips: str | None = option(None, "folder with weights for LPIPS from teacher to student, or random", "ours")

    @field_validator("rows", mode="before")
    @classmethod
    def _split(cls, rows: Any) -> Any:
        """`--set evaluate.rows=teacher-many,student`."""
        return [name.strip() for name in rows.split(",")] if isinstance(rows, str) else rows


#: Sections that say how long a stage runs.
STAGE_OPTIONS: dict[str, type[Options]] = {
    "prepare": DataStage,
    "score": ScoreStage,
    "recover": RecoverStage,
    "distill": DistillStage,
    "evaluate": EvaluateStage,
}


class Recipe(Options):
    """One run of `flc compress`. Sections named after an algorithm kind choose it; sections named after a
    stage say how long it runs."""

    model: str | None = Field(None, description="diffusers pipeline folder; the embedded tiny-wan when absent")
    data: str | None = Field(
        None,
        description="videos with texts beside them, or a list of such; drawn clips when absent",
    )
    preset: Literal["quick", "full"] = Field("quick", description="how long the stages run")
    seed: int = Field(0, ge=0, le=2**31)
    steps: int = Field(4, ge=1, le=100, description="sampling steps of the student")
    keep: float = Field(0.7, gt=0, le=1, description="share of block parameters that stay")
    height: int | None = Field(None, ge=1, le=LARGEST)
    width: int | None = Field(None, ge=1, le=LARGEST)
    frames: int | None = Field(None, ge=1, le=LARGEST)
    guidance: float | None = Field(
        None,
        ge=1,
        le=50,
        description="guidance scale of the teacher's rows and of an undistilled student, standard form; 1 is none",
    )
    negative_prompt: str = ""
    device: str = Field(AUTO, description="where networks run; auto is the GPU that is there, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is bfloat16 on a GPU, float32 elsewhere"
    )
    engine: Literal["plain", "deepspeed"] = "plain"
    zero: Literal[1, 2, 3] | None = Field(None, description="ZeRO stage of --engine deepspeed; 2 when absent")
    offload: bool = Field(False, description="optimizer on the CPU, with --engine deepspeed --zero 3")
    pruner: Choice = Choice(name="elbo")
    recovery: Choice = Choice(name="bernoulli")
    distiller: Choice = Choice(name="dmd")
    teacher: Choice = Choice(name="well-guided")
    prepare: DataStage = DataStage()
    score: ScoreStage = ScoreStage()
    recover: RecoverStage = RecoverStage()
    distill: DistillStage = DistillStage()
    evaluate: EvaluateStage = EvaluateStage()

    @field_validator("dtype", mode="before")
    @classmethod
    def _long(cls, dtype: Any) -> Any:
        return long_name(dtype)

    @property
    def share_scored(self) -> float:
        """The share of a pruner's clips with a given first frame: the network is scored as stage II trains it."""
        own = self.score.given_share
        return self.recover.given_share if own is None else own


#: Options that name a file or a folder; LPIPS' weights may also be `random`.
PLACES = ("model", "data")
EVALUATE_PLACES = ("manifest", "vbench_python", "vbench_data", "lpips")

#: Options of presets that only the plain engine has.
MUON = ("matrices", "fake_matrices")

ALGORITHMS: tuple[Kind, ...] = ("pruner", "recovery", "distiller", "teacher")


def long_name(dtype: Any) -> Any:
    """torch's name of a dtype; what is no short name stays as it is."""
    return SHORT.get(dtype, dtype) if isinstance(dtype, str) else dtype


def settled(device: str, dtype: str, gpu: bool) -> tuple[str, str]:
    """The device and dtype that `auto` stands for. Apple's `mps` has to be named: no run of ours was made there."""
    if device == AUTO:
        device = "cuda" if gpu else "cpu"
    if dtype == AUTO:
        dtype = "bfloat16" if device.partition(":")[0] == "cuda" else "float32"
    return device, dtype


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, sections merged. Choosing another algorithm drops the first one's options."""
    out = dict(base)
    for key, value in over.items():
        if key in ALGORITHMS and isinstance(value, str):
            value = {"name": value}
        before = out.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            replaced = key in ALGORITHMS and value.get("name", before.get("name")) != before.get("name")
            out[key] = dict(value) if replaced else merge(before, value)
        else:
            out[key] = value
    return out


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a file; `UserError` unless they are plain values, and name no program."""
    try:
        values = parse_yaml(read_text(path, LONGEST))
    except OSError as error:
        raise UserError(f"--recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--recipe {path} is not a text file: give a recipe.yaml") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"--recipe {path}{where} is not YAML: {getattr(error, 'problem', None) or error}") from error
    except ValueError as error:
        raise UserError(f"--recipe {path} cannot be taken for options: {shortened(str(error))}") from error
    if not isinstance(values, dict):
        raise UserError(f"--recipe {path} is not a mapping of options")
    check_programs(values, path)
    values.pop("versions", None)
    return values


def program_options(options: type[BaseModel]) -> list[str]:
    """Those that name something to run."""
    marked = {name: info.json_schema_extra for name, info in options.model_fields.items()}
    return [name for name, extra in marked.items() if isinstance(extra, dict) and extra.get("program")]


def programs(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Of options as a file has them, those that name something to run: the section's values, its name, the option's."""
    for section, own in values.items():
        if not isinstance(own, dict):
            continue
        options: Any = STAGE_OPTIONS.get(section)
        if section in ALGORITHMS:
            name = own.get("name", getattr(Recipe(), section).name)
            known = isinstance(name, str) and name in registry().names(section)
            options = registry().load(section, name).Options if known else None  # type: ignore[attr-defined]
        for option_name in program_options(options) if options is not None else ():
            if own.get(option_name) is not None:
                yield own, section, option_name


def check_programs(values: dict[str, Any], path: Path) -> None:
    for _, section, name in programs(values):
        raise UserError(
            f"{path}: {section}.{name} names a program to run, which is taken from the command line alone: take it out,"
            f" and give --set {section}.{name}=... if you trust it"
        )


def preset_values(embedded: bool, name: str) -> dict[str, Any]:
    """The stage lengths of a preset, and under `algorithms`, by kind, options that go to an algorithm when it is
    chosen."""
    return read_yaml(PRESETS / f"{'tiny' if embedded else 'large'}-{name}.yaml")


def without(names: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """A nested mapping without these keys, at any depth."""
    return {k: without(names, v) if isinstance(v, dict) else v for k, v in values.items() if k not in names}


def resolve(
    file: dict[str, Any], flags: dict[str, Any], sets: dict[str, dict[str, Any]], small: bool = False
) -> Recipe:
    """The recipe of a run. A lock file names every value, so presets change nothing under it. `small`: the model that
    is given is of the embedded one's size."""
    given = merge(merge(file, flags), sets)
    name = given.get("preset", "quick")
    values = merge(Recipe().model_dump(), {})
    if name in ("quick", "full"):
        preset = preset_values(small or given.get("model") is None, name)
        per_algorithm = preset.pop("algorithms", {})
        if given.get("engine") == "deepspeed":  # it has no Muon
            per_algorithm = without(MUON, per_algorithm)
        values = merge(values, preset)
        for kind in ALGORITHMS:
            chosen = merge({kind: values[kind]}, {kind: given[kind]} if kind in given else {})[kind]
            chosen = chosen.get("name") if isinstance(chosen, dict) else None
            if isinstance(chosen, str):  # anything else is refused below
                values[kind] = {"name": chosen, **per_algorithm.get(kind, {}).get(chosen, {})}
    return checked(Recipe, merge(values, given), where="recipe")


def versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def placed(recipe: Recipe, place: Callable[[str], str]) -> Recipe:
    """The recipe with `place` applied to every file and folder it names."""

    def moved(model: BaseModel, names: tuple[str, ...]) -> dict[str, str]:
        values = {name: getattr(model, name) for name in names}
        return {name: place(value) for name, value in values.items() if value and value != "random"}

    evaluate = recipe.evaluate.model_copy(update=moved(recipe.evaluate, EVALUATE_PLACES))
    return recipe.model_copy(update=moved(recipe, PLACES) | {"evaluate": evaluate})


def lock_text(recipe: Recipe) -> str:
    """Without the programs that it ran, which no file may name."""
    head = "# The resolved recipe of this run; `flc compress --recipe recipe.lock.yaml --out DIR` repeats it.\n"
    values = recipe.model_dump(mode="json")
    for own, section, name in list(programs(values)):
        own[name] = None
        head += f"# What {section}.{name} named is not written down: --set says it again.\n"
    return head + yaml.safe_dump(values | {"versions": versions()}, sort_keys=False)
