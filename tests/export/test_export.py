"""What export writes, and what it refuses."""

from __future__ import annotations

import ast
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image, ImageSequence

from flc.errors import UserError
from flc.export.card import call_example, model_card
from flc.export.pipeline import write_pipeline
from flc.models.folder import EMBEDDED, NOTES, adapter_for, read_json
from flc.run.stages.export import public_name
from tests.models import hunyuan, hunyuan_image, wan_image

DECLARED = {
    "steps": 4, "shift": 3.0, "sampler": "sde", "distiller": "dmd", "teacher": "well-guided", "pruner": "elbo",
    "recovery": "bernoulli", "share": 0.7, "size": [17, 48, 48], "parameters": 1_790_000, "license": "apache-2.0",
    "base_model": "some/model", "kept": {"blocks": [0, 1, 4]}, "example": "a red circle moving left",
    "sigmas": [1.0, 0.9, 0.75, 0.5, 0.0], "guidance": 1.0, "fps": 24, "dtype": "float32", "pipeline": "WanPipeline",
    "call": {"guidance_scale": 1.0}, "guidance_argument": "guidance_scale", "setup": [],
    "needs_first_frame": False, "exact": ["vae"], "suite": "shapes",
}  # fmt: skip


def test_the_pipeline_declares_its_schedule_and_a_reload_keeps_it(adapter, tmp_path):
    schedule = adapter.schedule(4, 3.0, "ode")
    write_pipeline(adapter, EMBEDDED, adapter.transformer, schedule, DECLARED | schedule.declaration(), tmp_path)
    assert read_json(tmp_path / NOTES)["sampler"] == "ode"
    scheduler = adapter.stock_pipeline(tmp_path, False).scheduler
    scheduler.set_timesteps(4)
    assert scheduler.sigmas.tolist() == list(schedule.sigmas)
    assert len(configs := list(tmp_path.glob("*/config.json"))) == 3
    assert not any("_name_or_path" in read_json(config) for config in configs), "no place of this machine"


def test_what_a_student_has_of_its_model_is_the_models_files(adapter, tmp_path):
    """Byte for byte, whatever the precision of the run, and of a snapshot whose files are links the files."""
    model, blobs = tmp_path / "models--me--tiny" / "snapshots" / "0fad", tmp_path / "models--me--tiny" / "blobs"
    shutil.copytree(EMBEDDED, model)
    (model / "text_encoder" / "model.fp16.safetensors").write_bytes(b"another variant")
    (model / "text_encoder" / ".notes").write_text("of a download")
    (model / "README.md").write_text("of the model")
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    schedule, out = adapter.schedule(4, 3.0, "ode"), tmp_path / "out"
    write_pipeline(adapter, model, adapter.transformer, schedule, DECLARED | schedule.declaration(), out)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    made = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
    shared = {name for name in made if name.split("/")[0] in ("vae", "text_encoder", "tokenizer")}
    other = {name for name in shared if made[name].read_bytes() != (EMBEDDED / name).read_bytes()}
    assert {name.rpartition("/")[2] for name in other} <= {"config.json"}, "which lose where their parts lay"
    assert {"vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"} < shared
    assert not any("fp16" in name or ".notes" in name for name in made) and "README.md" not in made
    index, own = read_json(out / "model_index.json"), read_json(EMBEDDED / "model_index.json")
    assert {k for k, v in index.items() if own.get(k) != v} <= {"_diffusers_version", "scheduler"}


@pytest.mark.parametrize(
    "wrong", [{"sampler": "ode"}, {"sigmas": [1.0, 0.9, 0.5, 0.2, 0.0]}, {"sigmas": [1.0, 0.5, 0.0]}]
)
def test_another_schedule_than_the_trained_one_is_refused(adapter, tmp_path, wrong):
    schedule = adapter.schedule(4, 3.0, "sde")
    declared = DECLARED | schedule.declaration() | wrong
    with pytest.raises(UserError, match="trained"):
        write_pipeline(adapter, EMBEDDED, adapter.transformer, schedule, declared, tmp_path)
    assert not (tmp_path / "model_index.json").exists()


def test_the_card_prints_call_numbers_limits_base_model_and_licence():
    rows = [{"": "student, 4 steps", "average": "0.889"}]
    card = model_card(DECLARED, rows, ["", "average"], "steps: 4\n")
    for text in ("base_model: some/model", "license: apache-2.0", "num_inference_steps=4", "guidance_scale=1.0",
                 "| student, 4 steps | 0.889 |", "## Limits", "torch.manual_seed", "steps: 4", "0, 1, 4"):  # fmt: skip
        assert text in card, text
    assert "generator=" not in card, "one of the same seed would draw the first noise twice"
    ode = model_card(DECLARED | {"sampler": "ode"}, rows, ["average"], "")
    assert "`generator` alone fixes the result" in ode and "generator=torch.Generator().manual_seed(0)" in ode


NAMES = [
    "Wan2.1: my #1 finetune",
    "@mine",
    "a 'quoted' \"name\"",
    "two\nlines",
    "1e3",
    "on",
    "- item",
    "<b>|`x`",
    "_a_b_",
    "a__b __c__ d",
    "a &lt; b & c #",
    "~~gone~~ **bold**",
    "[here](https://example.org) ![x](y)",
    "a\n---\nlicense: mit",
    "\x85\u2028\x1b[1m",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_front_matter_is_yaml_whatever_the_base_model_is_called(name):
    card = model_card(DECLARED | {"base_model": name}, [], ["average"], "")
    found = ModelCard(card).data
    assert found.base_model == name and found.license == "apache-2.0" and found.tags[0] == "flc"
    other = ModelCard(model_card(DECLARED | {"base_model": name, "license": "other"}, [], [], "")).data
    assert (other.license, other.license_name) == ("other", "that-of-the-base-model")


def shown(tokens: list[Token], kind: str) -> list[str]:
    """The texts of all elements of a kind; what is marked up within one is an error."""
    inside = [after for before, after in pairwise(tokens) if before.type == f"{kind}_open"]
    assert {child.type for token in inside for child in token.children or ()} <= {"text"}
    return ["".join(child.content for child in token.children or ()) for token in inside]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_text_is_one_line_and_no_markup(name):
    card = model_card(DECLARED | {"base_model": name}, [{"": name, name: "a|b"}], ["", name], "")
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(card.partition("\n---\n")[2])
    line = " ".join(name.split())
    assert shown(tokens, "heading") == [f"4-step student of {line}", "Measured", "Limits", "Recipe"]
    assert (shown(tokens, "th"), shown(tokens, "td")) == (["", line], [line, "a|b"])


def test_no_fence_ends_a_block_before_its_end():
    card = model_card(DECLARED | {"example": "```"}, [], [], "note: '````'")
    assert card.count("\n````python\n") == card.count("\n````\n") == 1
    assert card.count("\n`````yaml\n") == card.count("\n`````\n") == 1


def student_of(folder: Path, out: Path, sampler: str, guidance: float) -> dict[str, Any]:
    """What a card says of a pipeline in `out` that holds the model's own network."""
    adapter = adapter_for(folder).load(folder)
    size = {"size": [9, 32, 32], "base_model": 'a "model": #1', "guidance": guidance}
    declared = DECLARED | size | adapter.declaration()
    schedule = adapter.schedule(4, 3.0, sampler)
    declared |= schedule.declaration()
    write_pipeline(adapter, folder, adapter.transformer, schedule, declared, out)
    return declared | {
        "pipeline": read_json(out / "model_index.json")["_class_name"], "setup": list(adapter.setup),
        "guidance_argument": adapter.guidance_argument, "needs_first_frame": adapter.needs_first_frame,
        "call": adapter.call_settings(out, guidance, 'no "text"\nin it'), "exact": list(adapter.exact),
    }  # fmt: skip


FAMILIES = {"wan": None, "wan-i2v": wan_image, "hunyuan": hunyuan, "hunyuan-i2v": hunyuan_image}


@pytest.mark.parametrize(("sampler", "guidance", "dtype"), [("sde", 1.0, "float32"), ("ode", 3.0, "bfloat16")])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cards_block_makes_a_clip_with_nothing_but_diffusers_own_requirements(
    tmp_path, monkeypatch, family, sampler, guidance, dtype
):
    made = FAMILIES[family]
    folder = EMBEDDED if made is None else made.write_pipeline(tmp_path / "model")
    out = tmp_path / "pipeline"
    declared = student_of(folder, out, sampler, guidance) | {"dtype": dtype, "example": 'a sign: "open"\n'}
    for writer in ("cv2", "imageio", "imageio_ffmpeg", "av"):
        monkeypatch.setitem(sys.modules, writer, None)
    monkeypatch.chdir(out)
    Image.new("RGB", (40, 30), "red").save("first.png")
    code = model_card(declared, [], [""], "").partition("```python\n")[2].partition("\n```")[0]
    exec(code, {})
    with Image.open("clip.webp") as clip:
        assert clip.size == (32, 32)
        lasting = 0
        for frame in ImageSequence.Iterator(clip):
            frame.load()
            lasting += frame.info["duration"]
        assert lasting == 9 * round(1000 / 24), "WebP holds frames that hardly differ once, and longer"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers/snapshots/0fad780a534b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("models--gpt2/snapshots/0fad780a534b", "gpt2"),
        ("datasets--me--clips/snapshots/0fad780a534b", "me/clips"),
        ("mine/snapshots/latest", "latest"),
        ("mine", "mine"),
    ],
)
def test_a_snapshot_of_the_hubs_cache_is_called_by_its_repository(place, name):
    assert public_name(Path("/cache") / place) == name


def test_the_printed_call_is_python():
    for prompt in ("a red circle", 'a sign that says "open"', "two\nlines, a back\\slash and an ü"):
        tree = ast.parse(call_example(DECLARED | {"example": prompt, "dtype": "bfloat16"}))
        said = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert prompt in said and round(1000 / 24) in said
    text = call_example(DECLARED | {"dtype": "bfloat16"})
    each = '{"vae": torch.float32, "default": torch.bfloat16}'
    assert f'WanPipeline.from_pretrained(".", dtype={each})' in text
    assert 'WanPipeline.from_pretrained(".")' in call_example(DECLARED)
    other = {"call": {"true_cfg_scale": 1.0, "guidance_scale": 6.0}, "setup": ["pipe.vae.enable_tiling()"]}
    text = call_example(DECLARED | other)
    assert "true_cfg_scale=1.0, guidance_scale=6.0," in text and "\npipe.vae.enable_tiling()\n" in text
    ast.parse(text)
