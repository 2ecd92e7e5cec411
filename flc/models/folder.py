"""A model folder as the user gives it: checked before anything heavy runs, every fault one line."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from os.path import isfile  # of a name that no file can have it is False
from pathlib import Path
from typing import Any

from flc.errors import PluginError, UserError
from flc.files import check_pointer, parse_json, read_json
from flc.models.safe import (
    PICKLES,
    check_component_is_plain,
    check_index,
    check_libraries,
    check_places,
    check_weights_are_safe,
    components,
    entries_of,
    weight_files,
)
from flc.registry import registry

INDEX = "model_index.json"
NOTES = "flc.json"
"""Beside model_index.json: the size and guidance a pipeline is meant for, and what a student declares."""
EMBEDDED = Path(__file__).parent.parent / "assets" / "tiny-wan"
EMBEDDED_NAME = "flc/tiny-wan"
"""What a student of it calls its base model."""


def by_name(folder: Path) -> Path:
    """The embedded model's folder for `tiny-wan`; of a run's folder its student's; any other as it is given."""
    if str(folder) == EMBEDDED.name:
        return EMBEDDED
    student = folder / "pipeline"
    return student if not isfile(folder / INDEX) and isfile(student / INDEX) else folder


ANEW = "copy it anew from where it is whole"


def header(path: Path) -> dict[str, Any]:
    """The tensors that a safetensors file describes. Each one's place must be as long as its shape and type say, and
    the file as long as they add up to, which catches what was cut off or corrupted."""
    check_pointer(path)
    size, described = path.stat().st_size, None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size >= 8 and length <= min(size - 8, 100_000_000):
            with suppress(ValueError):
                described = parse_json(file.read(length).decode())
    if not isinstance(described, dict):
        raise UserError(f"{path} does not begin as safetensors do ({size} bytes): it was cut off, or is something else")
    entries = {name: entry for name, entry in described.items() if name != "__metadata__"}
    for name, entry in entries.items():
        if not holds(entry):
            raise UserError(f"{path} is corrupted, its header says of {name} {str(entry)[:80]}: {ANEW}")
    whole = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != whole:
        found = f"was cut off: it has {size} of {whole} bytes" if size < whole else f"has {size} bytes, not {whole}"
        raise UserError(f"{path} {found}: {ANEW}")
    return entries


#: Bytes of a number in safetensors' names.
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
         "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


def holds(entry: Any) -> bool:
    """Whether a tensor's place is as long as its shape and type say; types that are not known here pass."""
    try:
        begin, end = map(int.__index__, entry["data_offsets"])
        return entry["dtype"] not in BYTES or end - begin == prod(entry["shape"]) * BYTES[entry["dtype"]]
    except (KeyError, TypeError, ValueError):  # no such entries, or of another kind
        return False


def check_weights(folder: Path) -> None:
    """A component's weights: safetensors, whole; every shard that its index names is there; not fewer tensors than its
    config has layers, of which stock loaders would make millions."""
    check_weights_are_safe(folder)
    tensors = sum(len(header(file)) for file in weight_files(folder))
    path = folder / "config.json"
    for name, value in entries_of(read_json(path)) if path.exists() else ():
        size = len(value) if isinstance(value, list) else value if "layers" in name or "blocks" in name else 0
        if isinstance(size, int) and size > max(tensors, 100):
            raise UserError(
                f"{path}: {name} is {size}, and there are {tensors} tensors: give weights and config of one model"
            )


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The tensors of a file that a run wrote itself; `UserError` when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=device)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged: remove {path.parent} to make it again with --resume") from error


def numbers(folder: Path) -> int:
    """How many parameters the safetensors of a folder hold, by their headers."""
    return sum(prod(entry["shape"]) for file in weight_files(folder) for entry in header(file).values())


WEIGHTED = ("transformer", "vae", "text_encoder", "text_encoder_2", "image_encoder")
TOKENIZER = (("tokenizer_config.json",), ("tokenizer.json", "spiece.model", "vocab.json", "vocab.txt"))
#: What a component is nothing without: one file of each group.
FILES = {
    "tokenizer": TOKENIZER,
    "tokenizer_2": TOKENIZER,
    "scheduler": (("scheduler_config.json",),),
    "image_processor": (("preprocessor_config.json", "processor_config.json"),),
    **{name: (("config.json",),) for name in WEIGHTED},
}


def check_component(folder: Path, weights: bool) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is missing though model_index.json names it: add that folder")
    for path in (path for path in folder.iterdir() if path.is_file()):  # tokenizers are large files, too
        check_pointer(path)
    check_component_is_plain(folder)
    for names in FILES.get(folder.name, ()):
        if not any((folder / name).exists() for name in names):
            raise UserError(f"{folder} holds no {' or '.join(names)}: add that file")
    weighted = folder.name in WEIGHTED or any(p.suffix in (".safetensors", *PICKLES) for p in folder.iterdir())
    if weighted and weights:
        check_weights(folder)


def check(folder: Path, flag: str = "--model", weights: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline index and transformer config of a diffusers folder; `UserError` for anything else. Without
    `weights`, of those components that are there the configs alone are looked at."""
    if not folder.exists():
        raise UserError(f"{flag} {folder} does not exist: give a local folder (hf download NAME --local-dir DIR)")
    if folder.is_file():
        kind = "a pickle checkpoint" if folder.suffix in PICKLES else "a single file"
        raise UserError(f"{flag} {folder} is {kind}: give a diffusers folder with safetensors weights")
    if not (folder / "model_index.json").exists():
        raise UserError(f"{flag} {folder} has no model_index.json: give a diffusers pipeline folder")
    if folder.resolve() != EMBEDDED.resolve():  # of an installed package each file may be a link
        check_places(folder)
    index = read_json(folder / "model_index.json")
    check_index(folder, index)
    config = folder / "transformer" / "config.json"
    if not config.exists():
        raise UserError(f"{config} is missing: {index.get('_class_name', 'this pipeline')} has no transformer here")
    for component in ("transformer", *(name for name in components(index) if name != "transformer")):
        if weights or (folder / component).is_dir():
            check_component(folder / component, weights)
    return index, read_json(config)


def adapter_for(folder: Path, weights: bool = True) -> Any:
    """An adapter of the family that recognises the folder, not yet loaded; `weights`: as of `check`. Where several do,
    one that extends all others is taken; `UserError` where there is none, because each would load and call the model
    in its own way."""
    from flc.models.quiet import hush

    index, config = check(folder, weights=weights)
    hush()  # before the first family's import, while which transformers logs what it would rather have installed
    names = registry().names("model")
    claims: dict[str, Any] = {}
    faults = []
    for name in names:
        try:  # an adapter that is broken must not stand in the way of another family's
            cls: Any = registry().load("model", name)
            if cls.recognises(index, config):
                claims[name] = cls
        except PluginError as error:
            faults.append(f" ({error})")
        except Exception as error:  # a stranger's code, on a stranger's config
            origin = registry().find("model", name).origin
            faults.append(f" (model {name!r} from {origin} failed: {type(error).__name__}: {error})")
    for cls in claims.values():
        if all(issubclass(cls, other) for other in claims.values()):
            check_libraries(folder, index, cls.libraries)
            return cls()
    if claims:
        both = " and ".join(f"{name!r} from {registry().find('model', name).origin}" for name in claims)
        raise UserError(
            f"{folder} is claimed by {len(claims)} model families, {both}: uninstall one of these plugins, or leave it "
            "out of FLC_PLUGINS"
        )
    raise UserError(
        f"no model adapter for {index.get('_class_name')} / {config.get('_class_name')} in {folder}: "
        f"supported families are {', '.join(names)}; others come as plugins (hook flc_models){''.join(faults)}"
    )
