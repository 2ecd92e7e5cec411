"""Folders that a stranger might hand over: pickles that write a marker when they are read, code, links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MARKER = "marker"
NAMES = {
    "transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
}  # fmt: skip


class Bomb:
    """Unpickled, it touches the marker."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place / MARKER,))


def bomb(path: Path, place: Path) -> None:
    torch.save({"weight": Bomb(place)}, path)


def code(path: Path, place: Path) -> None:
    path.write_text(f"from pathlib import Path\nPath({str(place / MARKER)!r}).touch()\nclass Evil:\n    pass\n")


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | entries))


def single(folder: Path) -> Path:
    return folder / f"{NAMES[folder.name]}.safetensors"


def pickled(folder: Path) -> str:
    """A component's own weights, as a sound pickle too. Its name."""
    torch.save(load_file(single(folder)), folder / "weights.bin")
    return "weights.bin"


def sparse(path: Path, size: int) -> None:
    """A file as long as that, of zeros that the disk does not hold."""
    with open(path, "wb") as file:
        file.truncate(size)


def index(folder: Path, *files: str) -> None:
    """A shard index that lists each tensor in one of these files, in turn."""
    names = list(load_file(single(folder)))
    listed = {name: files[number % len(files)] for number, name in enumerate(names)}
    edit(folder / f"{single(folder).name}.index.json", metadata={}, weight_map=listed)


# -- of one component: (its folder, the place of the marker) -> what the message says ---------------------------------


def index_of_a_sound_pickle(folder: Path, place: Path) -> str:
    index(folder, pickled(folder))
    if folder.name == "text_encoder":  # transformers takes the file first
        single(folder).unlink()
    return "lists weights.bin, which is no safetensors file beside it"


def index_of_a_bomb(folder: Path, place: Path) -> str:
    bomb(folder / "evil.bin", place)
    index(folder, single(folder).name, "evil.bin")
    if folder.name == "text_encoder":
        single(folder).rename(folder / "rest.safetensors")
    return "lists "


def index_that_leads_out(folder: Path, place: Path) -> str:
    shutil.copy(single(folder), place / "elsewhere.safetensors")
    index(folder, "../../elsewhere.safetensors")
    single(folder).unlink()
    return "lists ../../elsewhere.safetensors, which is no safetensors file beside it"


def index_of_another_format(folder: Path, place: Path) -> str:
    (folder / "weights.gguf").write_bytes(b"GGUF")
    index(folder, "weights.gguf")
    single(folder).unlink()
    return "lists weights.gguf"


def index_that_is_none(folder: Path, place: Path) -> str:
    edit(folder / f"{single(folder).name}.index.json", metadata={}, weight_map=["evil.bin"])
    single(folder).rename(folder / "rest.safetensors")
    return "lists no files of weights (weight_map)"


def bins(folder: Path, place: Path) -> str:
    bomb(folder / "diffusion_pytorch_model.bin", place)
    bomb(folder / "pytorch_model.bin", place)
    return "is a pickle checkpoint, which flc refuses: convert to safetensors"


def bin_alone(folder: Path, place: Path) -> str:
    single(folder).unlink()
    return bins(folder, place)


def bin_in_shards(folder: Path, place: Path) -> str:
    for stem in ("pytorch_model", "diffusion_pytorch_model"):
        bomb(folder / f"{stem}-00001-of-00001.bin", place)
        edit(folder / f"{stem}.bin.index.json", metadata={}, weight_map={"weight": f"{stem}-00001-of-00001.bin"})
    single(folder).unlink()
    return "is a pickle checkpoint"


def bin_beside_a_variant(folder: Path, place: Path) -> str:
    """Which no loader takes that is not asked for it."""
    single(folder).rename(folder / f"{NAMES[folder.name]}.fp16.safetensors")
    return bins(folder, place)


def bin_beside_another_name(folder: Path, place: Path) -> str:
    single(folder).rename(folder / "weights.safetensors")
    return bins(folder, place)


def an_adapter(folder: Path, place: Path) -> str:
    edit(folder / "adapter_config.json", base_model_name_or_path=str(place / "elsewhere"), peft_type="LORA", r=1)
    bomb(folder / "adapter_model.bin", place)
    return "names another model's weights: merge the adapter"


def weights_of_its_config(folder: Path, place: Path) -> str:
    bomb(folder / "adapter_model.bin", place)
    edit(folder / "config.json", transformers_weights="adapter_model.bin")
    return "names weights of its own (transformers_weights)"


def code_of_a_config(folder: Path, place: Path) -> str:
    code(folder.parent / "evil.py", place)
    edit(folder / "config.json", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
    return "names code of its own (auto_map), which flc does not run"


def code_deep_in_a_config(folder: Path, place: Path) -> str:
    edit(folder / "config.json", text_config={"model_type": "t5", "auto_map": {"AutoModel": "evil.Evil"}})
    return "names code of its own (auto_map)"


def a_kernel_of_the_hub(folder: Path, place: Path) -> str:
    edit(folder / "config.json", attn_implementation="someone/kernel")
    return "names code of the hub (attn_implementation)"


def code_by_the_name_of_a_library(folder: Path, place: Path) -> str:
    library = "transformers" if folder.name == "text_encoder" else "diffusers"
    code(folder / f"{library}.py", place)
    return "is code, which flc does not run"


def a_link_out(folder: Path, place: Path) -> str:
    single(folder).rename(place / "elsewhere.safetensors")
    single(folder).symlink_to(place / "elsewhere.safetensors")
    return "is a link out of"


def a_link_to_a_device(folder: Path, place: Path) -> str:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    return "is a link out of"


def a_pipe(folder: Path, place: Path) -> str:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return "config.json is no regular file"


def a_link_to_nothing(folder: Path, place: Path) -> str:
    (folder / "generation_config.json").symlink_to("nothing")
    return "is no regular file"


def a_folder_elsewhere(folder: Path, place: Path) -> str:
    folder.rename(place / "elsewhere")
    folder.symlink_to(place / "elsewhere")
    return "is a link out of"


COMPONENTS: list[Callable[[Path, Path], str]] = [
    index_of_a_sound_pickle, index_of_a_bomb, index_that_leads_out, index_of_another_format, index_that_is_none,
    bin_alone, bin_in_shards, bin_beside_a_variant, bin_beside_another_name, an_adapter, weights_of_its_config,
    code_of_a_config, code_deep_in_a_config, a_kernel_of_the_hub, code_by_the_name_of_a_library, a_link_out,
    a_link_to_a_device, a_pipe, a_link_to_nothing, a_folder_elsewhere,
]  # fmt: skip


# -- of a whole folder ------------------------------------------------------------------------------------------------


def a_custom_pipeline(model: Path, place: Path) -> str:
    code(model / "pipeline.py", place)
    edit(model / "model_index.json", _class_name=["pipeline", "Evil"])
    return "names no pipeline of diffusers (_class_name)"


def a_pipeline_by_no_name(model: Path, place: Path) -> str:
    code(model / "None.py", place)
    return "None.py is code"


def a_component_of_its_own(model: Path, place: Path) -> str:
    code(model / "vae" / "evil.py", place)
    edit(model / "model_index.json", vae=["evil", "Evil"])
    return "evil.py is code"


def a_module_that_is_installed(model: Path, place: Path) -> str:
    code(place / "evil.py", place)  # the working folder is where python looks, too
    edit(model / "model_index.json", vae=["evil", "Evil"])
    return "vae is of 'evil', and flc loads none but of diffusers and transformers"


def components_by_a_mapping(model: Path, place: Path) -> str:
    """Which unpacks into a library and a class as a list does."""
    edit(model / "model_index.json", vae={"diffusers": 0, "AutoencoderKLWan": 0})
    return "vae is not of the form [library, class]"


def a_component_elsewhere(model: Path, place: Path) -> str:
    shutil.copytree(model / "vae", place / "elsewhere")
    edit(model / "model_index.json", **{"../elsewhere": ["diffusers", "AutoencoderKLWan"]})
    return "../elsewhere is no folder beside it"


def another_class(model: Path, place: Path) -> str:
    edit(model / "model_index.json", vae=["diffusers", "VQModel"])
    return "vae is ['diffusers', 'VQModel'], not ['diffusers', 'AutoencoderKLWan']"


def code_of_a_tokenizer(model: Path, place: Path) -> str:
    code(model / "tokenizer" / "evil.py", place)
    edit(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    return "tokenizer/evil.py is code"


def a_config_without_end(model: Path, place: Path) -> str:
    sparse(model / "tokenizer" / "added_tokens.json", 65_000_000)
    return "has 65 MB, and configs and vocabularies have 64 at most"


def a_vocabulary_elsewhere(model: Path, place: Path) -> str:
    edit(model / "tokenizer" / "tokenizer_config.json", vocab_file=str(place / "elsewhere"))
    return "names files elsewhere (vocab_file)"


FOLDERS: list[Callable[[Path, Path], str]] = [
    a_custom_pipeline, a_pipeline_by_no_name, a_component_of_its_own, a_module_that_is_installed,
    components_by_a_mapping, a_component_elsewhere, another_class, code_of_a_tokenizer, a_vocabulary_elsewhere,
    a_config_without_end,
]  # fmt: skip


# -- what is left alone -----------------------------------------------------------------------------------------------


def pickles_beside(model: Path, place: Path) -> None:
    """As many folders have them: no loader that wants safetensors looks at one."""
    for component in NAMES:
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5",
                     "model.ckpt", "weights.pt", "model.fp16.bin"):  # fmt: skip
            bomb(model / component / name, place)
        edit(model / component / "pytorch_model.bin.index.json", metadata={}, weight_map={"w": "pytorch_model.bin"})
        sparse(model / component / "model.onnx", 10**8)


def variants_beside(model: Path, place: Path) -> None:
    for component in NAMES:
        whole = single(model / component)
        shutil.copy(whole, whole.with_name(f"{whole.stem}.fp16.safetensors"))


def in_shards(model: Path, place: Path) -> None:
    for component, stem in NAMES.items():
        whole = single(model / component)
        tensors = load_file(whole)
        files = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
        index(model / component, *files)
        for number, file in enumerate(files):
            save_file(dict(list(tensors.items())[number::2]), model / component / file, {"format": "pt"})
        whole.unlink()


def code_at_the_root(model: Path, place: Path) -> None:
    """A handler or a demonstration, which nothing here imports."""
    code(model / "handler.py", place)


def links_within(model: Path, place: Path) -> None:
    whole = single(model / "vae")
    (model / "blobs").mkdir()
    whole.rename(model / "blobs" / "vae")
    whole.symlink_to(Path("../blobs/vae"))


def hub_cache(model: Path, place: Path, shared: bool = False) -> None:
    """`models--someone--model/snapshots/REVISION`, each file a link into `blobs`; and those, where repositories share
    large files, into the cache's own."""
    repository = place / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        blob, link = repository / "blobs" / f"{number:04x}", snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        if shared and path.suffix == ".safetensors":
            store = place / "hub" / "blobs" / "ab" / f"{number:04x}"
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, store)
            blob.symlink_to(os.path.relpath(store, blob.parent))
        else:
            shutil.copy(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    shutil.rmtree(model)
    model.symlink_to(snapshot)


def hub_cache_with_shared_blobs(model: Path, place: Path) -> None:
    hub_cache(model, place, shared=True)


SOUND: list[Callable[[Path, Path], None]] = [
    pickles_beside, variants_beside, in_shards, code_at_the_root, links_within, hub_cache, hub_cache_with_shared_blobs,
]  # fmt: skip
