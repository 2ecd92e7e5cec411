"""What stock loaders read of a model's folder, and would run: all weights from safetensors, nothing from elsewhere, no
code.

Read off diffusers 0.42 and transformers 5.24. diffusers follows `diffusion_pytorch_model.safetensors.index.json` before
the file of that name, whatever kinds of files it lists; transformers takes `model.safetensors` before its index, whose
names may lead out of the folder. Either falls back on `*.bin` where it finds neither and is not told `use_safetensors`.
A config may name other weights (`transformers_weights`), an adapter's (`adapter_config.json`), vocabularies
(`vocab_file`), or code: `auto_map`, a kernel of the hub, a file that is called as a component's library.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flc.errors import UserError
from flc.files import SMALL, parse_json, read_json, read_text

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".npy")
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
LIBRARIES = ("diffusers", "transformers")
#: Of a component, JSON that is vocabulary and no options; large, and read by libraries alone.
VOCABULARIES = ("tokenizer.json", "vocab.json")
#: How files end that libraries read at once, beside weights.
READ_WHOLE = (".json", ".model", ".txt", ".jinja")
#: Entries of a tokenizer's config that say where its files are; of one that was saved there are none.
FILES = ("vocab_file", "tokenizer_file", "merges_file", "spm_file", "fast_tokenizer_files")


def shards(index: Path) -> list[Path]:
    """The files that an index lists, all of them safetensors beside it."""
    listed = read_json(index).get("weight_map")
    names = set(listed.values()) if isinstance(listed, dict) and all(map(is_text, listed.values())) else set()
    if not names:
        raise UserError(f"{index} lists no files of weights (weight_map)")
    for name in sorted(names):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(f"{index} lists {name:.80}, which is no safetensors file beside it: convert to safetensors")
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name} is missing though {index.name} names it: add that file")
    return [index.parent / name for name in sorted(names)]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that stock loaders choose in a component's folder; empty where they would find none."""
    found: list[Path] = []
    for name in (DIFFUSERS, TRANSFORMERS):
        index = folder / f"{name}.index.json"
        if index.exists() and (name == DIFFUSERS or not (folder / name).is_file()):
            found += shards(index)
        elif (folder / name).is_file():
            found.append(folder / name)
    return found


def read_files(folder: Path) -> Iterator[Path]:
    """What loaders read of a component's folder: no notes of a download (hidden files), no other variants of the
    weights, no text for people."""
    weights = weight_files(folder)
    for path in folder.rglob("*"):
        hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        other = path.suffix in (".safetensors", *PICKLES) and weights and path not in weights
        if path.is_file() and not hidden and not other and path.suffix != ".md":
            yield path


def check_weights_are_safe(folder: Path) -> None:
    """`UserError` unless a component's weights are safetensors under the names that stock loaders look for."""
    if weight_files(folder):
        return
    pickles = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise UserError(f"{pickles[0]} is a pickle checkpoint, which flc refuses: convert to safetensors")
    raise UserError(
        f"{folder} holds no *.safetensors weights by the name of {DIFFUSERS} or {TRANSFORMERS}: is this a diffusers "
        "folder?"
    )


# -- links, pipes, devices ------------------------------------------------------------------------------------------


def homes(folder: Path) -> list[Path]:
    """Where files of a folder may lie: in it; of a snapshot in the hub's cache, whose files are links, in the
    repository's `blobs`, or in those that repositories share."""
    real = folder.resolve()
    found = [real]
    for place in (real, *real.parents):
        if place.parent.name == "snapshots":
            repository = place.parent.parent
            found.append(repository / "blobs")
            found += [repository.parent / "blobs"] if repository.name.startswith("models--") else []
    return found


def check_places(folder: Path) -> None:
    """`UserError` for a link that leads out of the folder, and for what is neither a file nor a folder; hidden ones,
    where downloads keep their notes, are not read."""
    allowed = homes(folder)
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink():
                real = path.resolve()
                if not any(real.is_relative_to(home) for home in allowed):
                    raise UserError(
                        f"{path} is a link out of {folder}, which flc does not follow: put the file itself there"
                    )
            if not name.startswith(".") and not path.is_file() and not path.is_dir():
                raise UserError(f"{path} is no regular file: take it out of {folder}")


# -- code, and other places -----------------------------------------------------------------------------------------


def entries_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of mappings, those within others, too."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from entries_of(inner)


def check_component_is_plain(folder: Path) -> None:
    """`UserError` where a component's folder has code, or its configs name code, or files that lie elsewhere."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            raise UserError(f"{path} is code, which flc does not run: take it out, or give a folder without")
        if path.name == "adapter_config.json":
            raise UserError(f"{path} names another model's weights: merge the adapter, and give the whole")
        if path.suffix in READ_WHOLE and (size := path.stat().st_size) > SMALL:
            raise UserError(
                f"{path} has {size / 1e6:.0f} MB, and configs and vocabularies have {SMALL / 1e6:g} at most"
            )
        if path.suffix == ".json" and path.name not in VOCABULARIES:
            check_config(path)


def check_config(path: Path) -> None:
    try:
        values = parse_json(read_text(path), number=int)  # a tokenizer's greatest length may be 10^30
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): mend it there") from error
    for name, value in entries_of(values):
        if name == "auto_map" and value:
            raise UserError(f"{path} names code of its own (auto_map), which flc does not run: take the entry out")
        if name == "transformers_weights" and value:
            raise UserError(f"{path} names weights of its own (transformers_weights): take the entry out")
        if name.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise UserError(f"{path} names code of the hub ({name}), which flc does not run: take the entry out")
        if path.name == "tokenizer_config.json" and name in FILES and value:
            raise UserError(
                f"{path} names files elsewhere ({name}), and flc reads those beside it alone: take the entry out"
            )


def check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """`UserError` for a `model_index.json` whose entries are not those that `save_pretrained` writes, or that names
    code beside it."""
    path, pipeline = folder / "model_index.json", index.get("_class_name")
    if not isinstance(pipeline, str):
        raise UserError(f"{path} names no pipeline of diffusers (_class_name), but {pipeline!r:.60}")
    if (folder / "None.py").exists():  # what diffusers looks for when it is not told of a custom pipeline
        raise UserError(f"{folder / 'None.py'} is code, which flc does not run: take it out")
    for name, entry in index.items():
        plain = isinstance(entry, list) and len(entry) == 2 and all(part is None or is_text(part) for part in entry)
        if isinstance(entry, dict | list) and not plain and not name.startswith("_"):
            raise UserError(f"{path}: {name} is not of the form [library, class]")
        if plain and name != Path(name).name:
            raise UserError(f"{path}: {name:.80} is no folder beside it")


def components(index: Mapping[str, Any]) -> dict[str, tuple[str | None, str]]:
    """Library and class of each component; [null, null] is one that the pipeline does without."""
    pairs = {name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    return {name: (entry[0], entry[1]) for name, entry in pairs.items() if entry[1] is not None}


def check_libraries(folder: Path, index: Mapping[str, Any], libraries: Collection[str]) -> None:
    """`UserError` for a component of another library: importing it would run what is there by that name."""
    for name, (library, _) in components(index).items():
        if library not in libraries:
            raise UserError(
                f"{folder / 'model_index.json'}: {name} is of {library!r:.60}, and flc loads none but of "
                f"{' and '.join(libraries)}"
            )


def check_pipeline(folder: Path, libraries: Collection[str] = LIBRARIES) -> None:
    """`UserError` unless a pipeline of any family may be loaded by its stock class."""
    check_places(folder)
    index = read_json(folder / "model_index.json")
    check_index(folder, index)
    check_libraries(folder, index, libraries)
    for place in (folder / name for name in components(index)):
        check_component_is_plain(place)
        if (place / "config.json").exists():
            check_weights_are_safe(place)
