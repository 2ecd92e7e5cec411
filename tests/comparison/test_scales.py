"""The full sizes' recipes through `--dry-run`: counted, from configs of the full sizes that stock diffusers writes; and
timed, on a small checkpoint of the family."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)

from benchmarks.cells import Scale
from benchmarks.common import ROOT
from benchmarks.runner import Runs
from benchmarks.table import TEACHER
from benchmarks.table2 import OTHERS, OURS
from flc.cli import main
from flc.data.source import drawn_clips, write_video
from flc.models.folder import EMBEDDED
from tests.models import hunyuan_image, wan_image
from tests.models.hunyuan import write_pipeline

pytestmark = pytest.mark.slow
#: What a laptop cannot do of the recipe: its device, precision, size and lengths.
SMALL = {
    "device": "cpu", "dtype": "float32", "frames": 5, "height": 32, "width": 32, "prepare": {"clips": 8},
    "recover": {"iterations": 8, "batch": 4}, "distill": {"iterations": 8, "batch": 4, "check_every": 0},
    "evaluate": {"clips": 2, "reference": 8, "teacher_steps": 2, "suite": "shapes"},
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A Wan 2.1 text-to-video pipeline of two heads and six blocks with random weights, and eight clips."""
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    embedded = WanPipeline.from_pretrained(EMBEDDED, dtype=torch.float32)
    WanPipeline(
        tokenizer=embedded.tokenizer, text_encoder=embedded.text_encoder, scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer=WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=64, freq_dim=16,
            ffn_dim=64, num_layers=6, rope_max_seq_len=32,
        ),
    ).save_pretrained(model)  # fmt: skip
    with open(data / "captions.jsonl", "w") as captions:
        for index, (video, caption) in enumerate(drawn_clips(8, 5, 32, 32, seed=0)):
            write_video(data / f"{index}.mp4", video)
            captions.write(json.dumps({"file": f"{index}.mp4", "caption": caption}) + "\n")
    return {"model": str(model), "data": str(data)}


@pytest.mark.parametrize(
    ("name", "engine"),
    [("wan-1.3b", {"engine": "plain", "zero": None}), ("wan-14b", {}), ("wan-ti2v-5b", {})],
    ids=["plain", "deepspeed, as written", "image-to-video, deepspeed, as written"],
)
def test_the_flagships_cell_is_planned_with_its_memory_and_time(places, tmp_path, monkeypatch, name, engine):
    read = Scale.read
    monkeypatch.setattr(Scale, "read", lambda self: {k: v for k, v in read(self).items() if k != "ranks"})
    runs = Runs(tmp_path, Scale(name, SMALL | places | engine), 1)
    said = runs.dry([OURS], 0)["fastlightgen"]
    assert "plan (elbo): 67% of block parameters stay" in said, said
    assert "blocks: keep [" in said and "recover" in said and "distill" in said and "nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "miniature", "share"), [("wan-i2v-14b", wan_image, 50), ("hunyuan-i2v-13b", hunyuan_image, 70)]
)
def test_an_image_to_video_cell_is_planned_on_a_model_of_its_kind(
    places, tmp_path, monkeypatch, name, miniature, share
):
    read = Scale.read
    monkeypatch.setattr(Scale, "read", lambda self: {k: v for k, v in read(self).items() if k != "ranks"})
    model = miniature.write_pipeline(tmp_path / "model")
    runs = Runs(tmp_path / "runs", Scale(name, SMALL | places | {"model": str(model)}), 1)
    said = runs.dry([OURS], 0)["fastlightgen"]
    found = re.search(r"plan \(elbo\): (\d+)% of block parameters stay", said)
    assert found and share - 20 <= int(found[1]) <= share and "nothing was written" in said, said


def test_hunyuan_videos_cell_is_planned_over_both_of_its_stacks(places, tmp_path, monkeypatch):
    read = Scale.read
    monkeypatch.setattr(Scale, "read", lambda self: {k: v for k, v in read(self).items() if k != "ranks"})
    model = write_pipeline(tmp_path / "model")
    runs = Runs(tmp_path / "runs", Scale("hunyuan-13b", SMALL | places | {"model": str(model)}), 1)
    said = runs.dry([OURS], 0)["fastlightgen"]
    share = re.search(r"plan \(elbo\): (\d+)% of block parameters stay", said)
    assert share and int(share[1]) <= 70, said
    for stack, blocks in (("transformer_blocks", 3), ("single_transformer_blocks", 4)):
        found = re.search(rf"^ *{stack}: keep (\[.*\]), remove (\[.*\])", said, re.MULTILINE)
        assert found is not None
        kept, gone = (set(json.loads(part)) for part in found.groups())
        assert kept | gone == set(range(blocks)) and not kept & gone
    assert "nothing was written" in said and not (tmp_path / "runs").exists()


#: Wan 2.1 14B and HunyuanVideo are what diffusers' transformers are by default; the others by their published configs.
SIZES: dict[str, dict[str, Any]] = {
    "hunyuan-13b": {},
    "hunyuan-i2v-13b": {"image_condition_type": "token_replace"},
    "wan-14b": {},
    "wan-1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan-i2v-14b": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "wan-ti2v-5b": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48,
                    "out_channels": 48},
}  # fmt: skip
VAES = {"wan-ti2v-5b": {
    "z_dim": 48, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}}  # fmt: skip
#: Of each stack blocks, and those that 70 % of their parameters leave; latents of a clip.
EXPECTED = {
    "wan-14b": ({"blocks": (40, 28)}, "(16, 21, 60, 104)"),
    "wan-1.3b": ({"blocks": (30, 21)}, "(16, 21, 60, 104)"),
    "wan-i2v-14b": ({"blocks": (40, 28)}, "(16, 21, 60, 104)"),
    "wan-ti2v-5b": ({"blocks": (30, 21)}, "(48, 31, 44, 80)"),
    # a double block is 2.4 single ones: in pairs, eight of each are too few to go
    "hunyuan-13b": ({"transformer_blocks": (20, 12), "single_transformer_blocks": (40, 32)}, "(16, 33, 90, 160)"),
    "hunyuan-i2v-13b": ({"transformer_blocks": (20, 12), "single_transformer_blocks": (40, 32)}, "(16, 33, 90, 160)"),
}


def configs(name: str, folder: Path) -> Any:
    """A pipeline folder of this size without any weights. Returns its transformer, which has no numbers."""
    hunyuan = name.startswith("hunyuan")
    network, autoencoder = (HunyuanVideoTransformer3DModel, AutoencoderKLHunyuanVideo) if hunyuan else (
        WanTransformer3DModel, AutoencoderKLWan)  # fmt: skip
    with torch.device("meta"):
        transformer, vae = network(**SIZES[name]), autoencoder(**VAES.get(name, {}))
    transformer.save_config(folder / "transformer")
    vae.save_config(folder / "vae")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    parts = {"transformer": network.__name__, "vae": autoencoder.__name__}
    parts |= {"scheduler": "FlowMatchEulerDiscreteScheduler"}
    texts = {"text_encoder": "LlamaModel", "tokenizer": "LlamaTokenizerFast", "text_encoder_2": "CLIPTextModel",
             "tokenizer_2": "CLIPTokenizer"} if hunyuan else {
             "text_encoder": "UMT5EncoderModel", "tokenizer": "T5TokenizerFast"}  # fmt: skip
    image = "-i2v-" in name
    texts |= {"image_processor": "CLIPImageProcessor"} if image else {}
    texts |= {"image_encoder": "CLIPVisionModel"} if image and not hunyuan else {}
    index: dict[str, Any] = {part: ["diffusers", cls] for part, cls in parts.items()}
    index |= {part: ["transformers", cls] for part, cls in texts.items()}
    kind = f"{'HunyuanVideo' if hunyuan else 'Wan'}{'ImageToVideo' if image else ''}Pipeline"
    index |= {"_class_name": kind} | ({} if hunyuan else {"expand_timesteps": name == "wan-ti2v-5b"})
    (folder / "model_index.json").write_text(json.dumps(index))
    return transformer


def estimated(said: str) -> dict[str, list[str]]:
    """The table's numbers by stage."""
    rows = (re.findall(r"[\w.]+", line) for line in said.splitlines())
    return {row[0]: row[1:] for row in rows if row[:1] in (["recover"], ["distill"])}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_full_size_is_counted_for_its_sixteen_gpus_without_weights_clips_or_a_gpu(tmp_path, name):
    """Bytes a parameter under ZeRO-3 in bfloat16: a frozen network's 2; a trained one's weights, gradients, moments
    and masters, 2 + 2 + 8 + 4, and 4 of an average where it keeps one."""
    transformer = configs(name, tmp_path)
    stacks, latents = EXPECTED[name]
    whole = sum(p.numel() for p in transformer.parameters())
    each = {stack: sum(p.numel() for p in transformer.get_submodule(f"{stack}.0").parameters()) for stack in stacks}
    pruned = whole - sum((count - kept) * each[stack] for stack, (count, kept) in stacks.items())
    runs = Runs(tmp_path / "runs", Scale(name, {"model": str(tmp_path), "evaluate": {"suite": "shapes"}}), 1)
    said = runs.dry([OURS], 0)["fastlightgen"]
    assert f"{whole / 1e9:.2f} billion parameters" in said and latents in " ".join(said.split()), said
    words = " ".join(said.split())
    assert all(f"{stack}: {kept} of {count} blocks stay" in words for stack, (count, kept) in stacks.items())
    assert "counted for 16 ranks" in words
    found = estimated(said)
    recovered, distilled = (2 + 20) * whole / 16e9, (2 * 2 * whole + (20 + 16) * pruned) / 16e9
    assert found["recover"] == ["4000", "4000", "1", f"{recovered:.2f}"], "the original, and the student"
    assert found["distill"] == ["5000", "1000", "1", f"{distilled:.2f}"], (
        "the original, the recovered, student and fake network"
    )
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_trains_nothing_needs_nothing(tmp_path):
    configs("wan-1.3b", tmp_path)
    runs = Runs(tmp_path / "runs", Scale("wan-1.3b", {"model": str(tmp_path), "evaluate": {"suite": "shapes"}}), 1)
    said = runs.dry([TEACHER], 0)["teacher"]
    assert estimated(said) == {"recover": ["0", "0"], "distill": ["0", "0"]}


def test_the_example_recipe_is_counted_for_its_eight_gpus(tmp_path, capsys):
    """With the optimizer on the CPU: 2 bytes a frozen parameter, 2 + 2 a trained one, 4 of an average."""
    transformer = configs("wan-14b", tmp_path)
    whole = sum(p.numel() for p in transformer.parameters())
    pruned = whole - 12 * sum(p.numel() for p in transformer.blocks[0].parameters())
    recipe = ["--recipe", str(ROOT / "examples" / "wan-14b.yaml"), "--model", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["compress", *recipe, "--dry-run", "--ranks", "8"])
    said, warned = capsys.readouterr()
    drawn = "stage II (bernoulli) trains the pruned network itself in about"
    assert f"{drawn} 2000 of 4000 iterations" in " ".join(said.split()) and drawn not in " ".join(warned.split())
    with pytest.raises(SystemExit):
        main(["compress", *recipe, "--dry-run", "--ranks", "8", "--set", "recovery.draw=block"])
    often, warned = capsys.readouterr()
    assert f"{drawn} 0.98 of 4000 iterations" in " ".join(often.split())
    assert f"warning: {drawn} 0.98 of 4000 iterations" in " ".join(warned.split())
    found = estimated(said)
    recovered, distilled = (2 + 8) * whole / 8e9, (2 * 2 * whole + (8 + 4) * pruned) / 8e9
    assert ended.value.code == 0 and round(distilled) == 22, "the recipe's head says it"
    assert found == {"recover": ["4000", "4000", "2", f"{recovered:.2f}"],
                     "distill": ["5000", "1000", "2", f"{distilled:.2f}"]}  # fmt: skip


def test_a_family_without_adapter_is_refused_in_one_line(places, tmp_path):
    config = tmp_path / "transformer" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"_class_name": "LTXVideoTransformer3DModel"}))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}))
    runs = Runs(tmp_path / "runs", Scale("wan-14b", SMALL | places | {"model": str(tmp_path)}), 1)
    few = OTHERS[0]
    said = runs.dry([few], 0)[few.label]
    assert said.startswith("failed: ") and "no model adapter for LTXPipeline" in said
