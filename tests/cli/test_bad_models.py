"""Bad models: one line on stderr that says what was wrong, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from flc.errors import UserError
from flc.models.folder import EMBEDDED
from flc.models.loaded import check_finite
from flc.recipe import resolve
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.walk import check_scheduler
from flc.run.weights import load_transformer

pytestmark = pytest.mark.usefixtures("place")

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(place):
    """A copy of the embedded model, to be damaged."""
    shutil.copytree(EMBEDDED, place / "model")
    return place / "model"


def truncate(model: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2])


def corrupt_header(model: Path) -> None:
    data = bytearray((model / WEIGHTS).read_bytes())
    data[8:16] = b"\xff" * 8
    (model / WEIGHTS).write_bytes(bytes(data))


def corrupt_length(model: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(b"\xff" * 8 + data[8:])


def empty_file(model: Path) -> None:
    (model / WEIGHTS).write_bytes(b"")


def lengthened(model: Path) -> None:
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes() + b"\0")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22\nsize 12345\n"


def pointer(model: Path) -> None:
    (model / WEIGHTS).write_text(LFS)


def pointer_to_a_tokenizer(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").write_text(LFS)


def pickle(model: Path) -> None:
    (model / WEIGHTS).rename(model / "transformer" / "diffusion_pytorch_model.bin")


def no_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()


def missing_shard(model: Path) -> None:
    first, second = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
    (model / WEIGHTS).rename(model / "transformer" / first)
    index = {"metadata": {}, "weight_map": {"proj_out.weight": first, "proj_out.bias": second}}
    (model / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def other_family(model: Path) -> None:
    (model / "model_index.json").write_text(json.dumps({"_class_name": "AllegroPipeline"}))
    config = {"_class_name": "AllegroTransformer3DModel", "num_layers": 2}
    (model / "transformer" / "config.json").write_text(json.dumps(config))


def without_index(model: Path) -> None:
    (model / "model_index.json").unlink()


def index_not_json(model: Path) -> None:
    (model / "model_index.json").write_text('{"_class_name": "WanPipeline", ')


def index_of_another_type(model: Path) -> None:
    (model / "model_index.json").write_text("[]")


def without_config(model: Path) -> None:
    (model / "transformer" / "config.json").unlink()


def without_vae(model: Path) -> None:
    shutil.rmtree(model / "vae")


def without_tokenizer(model: Path) -> None:
    shutil.rmtree(model / "tokenizer")


def without_tokenizer_json(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").unlink()


def without_scheduler(model: Path) -> None:
    (model / "scheduler" / "scheduler_config.json").unlink()


def shape_of_another_length(model: Path) -> None:
    rewrite_header(model, lambda entry: entry["shape"].__setitem__(0, entry["shape"][0] + 1))


def shape_that_is_none(model: Path) -> None:
    rewrite_header(model, lambda entry: entry.__setitem__("shape", "x"))


def another_type(model: Path) -> None:
    rewrite_header(model, lambda entry: entry.__setitem__("dtype", "F64"))


def rewrite_header(model: Path, change: Callable[[dict], None]) -> None:
    """One tensor's entry changed; the file stays as long as its header says."""
    file = model / WEIGHTS
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    change(next(entry for name, entry in described.items() if name != "__metadata__"))
    header = json.dumps(described).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


DAMAGES = {
    shape_of_another_length: [f"model/{WEIGHTS} is corrupted, its header says of", "'shape': ["],
    shape_that_is_none: [f"model/{WEIGHTS} is corrupted, its header says of", "'shape': 'x'"],
    another_type: [f"model/{WEIGHTS} is corrupted, its header says of", "'dtype': 'F64'"],
    without_tokenizer: ["model/tokenizer is missing though model_index.json names it"],
    without_tokenizer_json: ["model/tokenizer holds no tokenizer.json"],
    without_scheduler: ["model/scheduler holds no scheduler_config.json"],
    truncate: [f"model/{WEIGHTS} was cut off: it has ", " bytes: copy it anew"],
    lengthened: [f"model/{WEIGHTS} has ", " bytes, not "],
    corrupt_header: [f"model/{WEIGHTS} does not begin as safetensors do"],
    corrupt_length: [f"model/{WEIGHTS} does not begin as safetensors do"],
    empty_file: [f"model/{WEIGHTS} does not begin as safetensors do (0 bytes)"],
    pointer: [f"model/{WEIGHTS} is a pointer of Git LFS", "git lfs pull"],
    pointer_to_a_tokenizer: ["model/tokenizer/tokenizer.json is a pointer of Git LFS", "git lfs pull"],
    pickle: ["diffusion_pytorch_model.bin is a pickle checkpoint", "convert to safetensors"],
    no_weights: ["model/transformer holds no *.safetensors weights"],
    missing_shard: ["diffusion_pytorch_model-00002-of-00002.safetensors is missing", "index.json names it"],
    other_family: ["no model adapter for AllegroPipeline / AllegroTransformer3DModel", "wan"],
    without_index: ["--model model has no model_index.json"],
    index_not_json: ["model/model_index.json cannot be read as JSON"],
    index_of_another_type: ["model/model_index.json holds no JSON object"],
    without_config: ["model/transformer/config.json is missing"],
    without_vae: ["model/vae is missing though model_index.json names it"],
}


WRONG = [
    ("transformer/config.json", {"num_layers": "ten"}, "num_layers='ten' is no "),
    ("transformer/config.json", {"patch_size": [1, 2.5, 2]}, "patch_size=[1, 2.5, 2] is no "),
    ("vae/config.json", {"base_dim": "eight"}, "base_dim='eight' is no "),
    ("vae/config.json", {"latents_std": "abc"}, "latents_std='abc' is no "),
    ("vae/config.json", {"latents_std": [None] * 3}, "latents_std=[None, None, None] is no "),
    ("vae/config.json", {"scale_factor_temporal": "four"}, "scale_factor_temporal='four' is no "),
    ("vae/config.json", {"scale_factor_temporal": 8}, "scale factors in time and space are (8, "),
    ("scheduler/scheduler_config.json", {"shift_terminal": [7]}, "shift_terminal=[7] is no "),
    ("scheduler/scheduler_config.json", {"use_dynamic_shifting": 1e-320}, "use_dynamic_shifting=1e-320 is no "),
    ("model_index.json", {"expand_timesteps": "yes"}, "expand_timesteps='yes' is no "),
    ("text_encoder/config.json", {"num_layers": 2**40}, f"num_layers is {2**40}, and there are 22 tensors"),
    ("transformer/config.json", {"num_layers": 2**40}, f"num_layers is {2**40}, and there are "),
    ("vae/config.json", {"dim_mult": [1] * 100_000}, "dim_mult is 100000, and there are "),
    ("text_encoder/config.json", {"num_heads": None}, "model does not load as a Wan pipeline"),
    (
        "tokenizer/tokenizer_config.json",
        {"pad_token": None},
        "model does not load as a Wan pipeline: Asking to pad",
    ),
    ("tokenizer/tokenizer_config.json", {"eos_token": "<end>"}, "tokenizer numbers its tokens 0 to "),
]


@pytest.mark.parametrize(("file", "wrong", "says"), WRONG, ids=[f"{f} {w}" for f, w, _ in WRONG])
def test_configs_of_another_type_are_refused(refused, model, file, wrong, says):
    """All are taken by stock loaders, and most are tripped over later."""
    (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | wrong))
    line = refused("compress", "--out", "run", "--model", "model")
    assert says in line
    assert line == refused("generate", "model", "--prompt", "a cat")


NUMBERS = {
    "vae/config.json": [{"latents_mean": [0.0] * 3}],
    "scheduler/scheduler_config.json": [{"flow_shift": "three"}],
}


@pytest.mark.parametrize(("file", "wrong"), [(file, wrong) for file in NUMBERS for wrong in NUMBERS[file]])
def test_numbers_that_a_stock_loader_takes_as_they_come(refused, model, file, wrong):
    (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | wrong))
    line = refused("compress", "--out", "run", "--model", "model")
    assert f"model/{file}: {next(iter(wrong))} must be" in line
    assert line == refused("generate", "model", "--prompt", "a cat")


NOTES = [{"size": [5, 32]}, {"size": "big"}, {"size": [5, -32, 32]}, {"guidance": "two"}, {"steps": 0}, {"shift": -1},
         {"sigmas": "x"}, {"fps": 0}, {"dtype": "float99"}]  # fmt: skip


@pytest.mark.parametrize("wrong", NOTES, ids=str)
def test_notes_of_a_folder_that_say_nothing_useful(refused, model, wrong):
    (model / "flc.json").write_text(json.dumps(json.loads((model / "flc.json").read_text()) | wrong))
    line = refused("compress", "--out", "run", "--model", "model")
    assert f"model/flc.json: {next(iter(wrong))}" in line and "mend that entry" in line
    assert line == refused("generate", "model", "--prompt", "a cat")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_model_folders(refused, unloaded, model, damage):
    damage(model)
    line = refused("compress", "--out", "run", "--model", "model")
    for part in DAMAGES[damage]:
        assert part in line, line


def test_a_component_that_is_a_number(refused, model):
    index = json.loads((model / "model_index.json").read_text()) | {"scheduler": 16}
    (model / "model_index.json").write_text(json.dumps(index))
    line = refused("compress", "--out", "run", "--model", "model")
    assert "model_index.json: scheduler=16 is no FlowMatchEulerDiscreteScheduler: mend that entry" in line


def test_a_model_folder_that_does_not_hold_what_its_config_says(refused, model):
    """Seen only while loading: the stock loader's complaint, as one line."""
    config = json.loads((model / "transformer" / "config.json").read_text())
    (model / "transformer" / "config.json").write_text(json.dumps(config | {"ffn_dim": config["ffn_dim"] * 2}))
    assert "model does not load as a Wan pipeline" in refused("compress", "--out", "run", "--model", "model")


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def poison(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    return change


VAE, TEXT = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
LAST = "blocks.9.ffn.net.2.weight"
TENSORS = {
    "missing from the transformer": (WEIGHTS, lambda t: t.pop(LAST), ["model/transformer lacks", LAST]),
    "missing from the autoencoder": (VAE, lambda t: t.pop("quant_conv.weight"), ["model/vae lacks", "quant_conv"]),
    "missing from the text encoder": (TEXT, lambda t: t.pop("shared.weight"), ["model/text_encoder lacks", "shared"]),
    "unexpected": (WEIGHTS, lambda t: t.update(extra=torch.zeros(1)), [WEIGHTS, "holds extra", "config.json"]),
    "not a number": (WEIGHTS, poison(LAST, float("nan")), [WEIGHTS, LAST, "not finite"]),
    "infinite": (TEXT, poison("shared.weight", float("-inf")), [TEXT, "shared.weight", "not finite"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_missing_unexpected_or_not_finite(refused, model, case):
    """Stock loaders take every one of these."""
    file, change, expected = TENSORS[case]
    rewrite(model / file, change)
    line = refused("score", "--out", "run", "--model", "model")
    for part in expected:
        assert part in line, line


WRAPPED = {
    "compiled": (lambda name: "_orig_mod." + name, "a network that torch.compile wraps: save its `_orig_mod`"),
    "ddp": (lambda name: "module." + name, "a network that DistributedDataParallel wraps: save its `module`"),
    "lora": (lambda name: name.replace("to_q.", "to_q.base_layer."), "`merge_and_unload()`"),
    "a block's own": (lambda name: name.replace("blocks.3.", "blocks.3._checkpoint_wrapped_module."), "checkpointing"),
    "compiled, then ddp": (lambda name: "module._orig_mod." + name, "torch.compile wraps: save its `_orig_mod`, and as "
                           "those of a network that DistributedDataParallel wraps: save its `module`"),
    "peft": (lambda name: "base_model.model." + name.replace("to_q.", "to_q.base_layer."), "`merge_and_unload()`"),
    "another layout": (lambda name: "model.diffusion_model." + name, "convert it with diffusers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_that_were_saved_from_a_wrapped_network_are_told_from_damaged_ones(refused, model, case):
    rename, says = WRAPPED[case]
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    save_file({rename(name): value for name, value in tensors.items()}, model / WEIGHTS, {"format": "pt"})
    line = refused("score", "--out", "run", "--model", "model")
    assert "model/transformer lacks the tensor" in line and says in line


def test_a_config_with_fewer_blocks_than_the_weights(refused, model):
    config = json.loads((model / "transformer" / "config.json").read_text())
    (model / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": config["num_layers"] - 1}))
    line = refused("compress", "--out", "run", "--model", "model")
    assert "holds blocks.9." in line and "model/transformer/config.json has no place" in line


def test_generate_refuses_an_incomplete_model_too(refused, model):
    rewrite(model / WEIGHTS, poison(LAST, float("nan")))
    assert LAST in refused("generate", "model", "--prompt", "a cat")


@pytest.mark.parametrize("change", [lambda t: t.pop(LAST), poison(LAST, float("nan"))], ids=["missing", "nan"])
def test_weights_of_the_user_are_held_to_the_same(adapter, model, change):
    job = SimpleNamespace(adapter=adapter)
    rewrite(model / WEIGHTS, change)
    with pytest.raises(UserError, match=LAST):
        load_transformer(job, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finiteness_is_checked_in_every_precision(place, dtype):
    module = torch.nn.Linear(2, 2).to(dtype)
    check_finite(module, place)
    module.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="bias is not finite"):
        check_finite(module, place)


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "a single file"), ("m.bin", "a pickle checkpoint")])
def test_a_model_that_is_a_file(refused, unloaded, place, name, kind):
    (place / name).write_bytes(b"x")
    assert f"--model {name} is {kind}" in refused("compress", "--out", "run", "--model", name)


@pytest.mark.parametrize("entry", [{"data_offsets": [0]}, {"data_offsets": ["a", "b"]}, {"data_offsets": 4}], ids=str)
def test_a_header_that_is_json_and_wrong(refused, model, entry):
    text = json.dumps({"weight": {"dtype": "U7", "shape": [1], **entry}}).encode()
    (model / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert "is corrupted, its header says of weight" in refused("compress", "--out", "run", "--model", "model")


#: Schedulers that a folder may name and no row of the table could be sampled with: the first asks for a number that
#: stock Wan pipelines do not hand over, the others are of diffusion by noise.
SCHEDULERS = {
    "dynamic shift": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "does not walk 4 steps"),
    "ddim": ("DDIMScheduler", {"prediction_type": "v_prediction"}, "does not walk 4 steps"),
    "noise": ("UniPCMultistepScheduler", {"prediction_type": "epsilon"}, "does not follow a velocity"),
    "times below zero": ("FlowMatchEulerDiscreteScheduler", {"shift": -1.0}, "does not follow a velocity"),
    "flow in name": ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}, "does not follow a velocity"),
}  # fmt: skip


def with_scheduler(model: Path, name: str, config: dict) -> None:
    index = json.loads((model / "model_index.json").read_text()) | {"scheduler": ["diffusers", name]}
    (model / "model_index.json").write_text(json.dumps(index))
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name} | config))


@pytest.mark.parametrize("case", SCHEDULERS)
def test_a_scheduler_is_walked_once_before_anything_rests_on_it(refused, model, case):
    name, config, says = SCHEDULERS[case]
    with_scheduler(model, name, config)
    line = refused("compress", "--out", "run", "--model", "model", "--set", "evaluate.teacher_steps=50")
    assert f"model/scheduler/scheduler_config.json: {name}" in line and says in line


SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOWS = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "unipc": ("UniPCMultistepScheduler", SIGMAS | {"flow_shift": 3.0}),
    "dpm": ("DPMSolverMultistepScheduler", SIGMAS | {"flow_shift": 5.0}),
}  # fmt: skip


@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("case", FLOWS)
def test_schedulers_of_flow_matching_pass(place, model, case, steps):
    with_scheduler(model, *FLOWS[case])
    recipe = completed(resolve({"model": "model", "evaluate": {"teacher_steps": steps}}, {}, {}))
    check_scheduler(Job(recipe, place / "run", Console(quiet=True), needs=frozenset()), ["evaluate"])
