"""Wan 2.1 image-to-video: what the adapter computes is what the stock pipeline computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPProcessor

from flc.api import Sample
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips
from flc.errors import UserError
from flc.evaluate.sampling import blank, condition, make_prompts
from flc.export.pipeline import save_pipeline
from flc.models.condition import join
from flc.models.folder import adapter_for
from flc.models.prunable import Prunable
from flc.models.view import removed
from flc.models.wan_image import SEES, WanImageAdapter
from tests.models.changed import configs, entered, lacking, prefixed
from tests.models.first_frame import OTHER, PROMPT, SHAPE, SIZE, TOLERANCE, given, image, ours, shown, stock_clip
from tests.models.hunyuan import clip_tokenizer
from tests.models.wan_image import SIGHT, write_pipeline


@pytest.fixture(scope="module", params=[True, False], ids=["with CLIP", "without"])
def folder(request, tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("wan"), sees=request.param)


@pytest.fixture(scope="module")
def wan_image(folder) -> WanImageAdapter:
    return adapter_for(folder).load(folder)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("seeing"))


def clip(folder: Path, picture: np.ndarray, **call: Any) -> np.ndarray:
    return stock_clip(WanImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32), picture, **call)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_teachers_clip_is_the_stock_pipelines(wan_image, folder, guidance):
    scheduler = wan_image.teacher_scheduler()
    found = ours(wan_image, scheduler, image(), guidance)
    stock = clip(folder, image(), **wan_image.call_settings(folder, guidance))
    assert np.abs(stock - found).max() < TOLERANCE and stock.std() > 0.01
    other = clip(folder, image(1), **wan_image.call_settings(folder, guidance))
    assert np.abs(other - found).max() > 5 * TOLERANCE, "the first frame matters here"


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_a_students_clip_is_the_stock_pipelines(wan_image, folder, tmp_path, sampler):
    schedule = wan_image.schedule(4, 5.0, sampler)
    small = wan_image.prepare(removed(wan_image.transformer, {"blocks": (0, 2)}, wan_image.stacks))
    save_pipeline(wan_image, folder, small, schedule.scheduler, tmp_path)
    student = adapter_for(tmp_path).load(tmp_path)
    found = clip(tmp_path, image(), guidance_scale=1.0)
    assert np.abs(found - ours(student, schedule.scheduler, image())).max() < TOLERANCE
    assert type(student) is WanImageAdapter and len(student.transformer.blocks) == 2


@torch.no_grad()
def test_what_a_first_frame_is_encoded_to_is_the_stock_pipelines(wan_image):
    pictures = np.concatenate([image(0), image(1)])
    found = wan_image.first_frames(pictures, 9)
    pipe, each = wan_image.pipe, [shown(pictures[i : i + 1]) for i in range(2)]
    for i, one in enumerate(each):
        pixels = pipe.video_processor.preprocess(one, height=32, width=32)
        _, beside = pipe.prepare_latents(pixels, 1, 4, 32, 32, 9, torch.float32, torch.device("cpu"))
        mask, latents = beside.split([4, 4], dim=1)
        assert torch.allclose(found["image_latents"][i : i + 1], latents, atol=1e-5)  # another batch
        assert mask[:, :, 0].eq(1).all() and mask[:, :, 1:].eq(0).all(), "as `velocity` has it"
        if pipe.image_encoder is not None:
            assert torch.allclose(found["image_tokens"][i], pipe.encode_image(one)[0], atol=1e-5)
    assert found.keys() == {"image_latents"} | ({"image_tokens"} if pipe.image_encoder is not None else set())


@torch.no_grad()
def test_encoded_clips_carry_their_own_first_frame_and_all_of_them_is_free(wan_image, tmp_path):
    pairs = list(drawn_clips(3, 9, 32, 32, seed=0))
    encode(wan_image, pairs, tmp_path)
    data, rows = LatentClips(tmp_path, wan_image), torch.tensor([2, 0])
    batch = data.batch(rows, torch.tensor([True, False]))
    expected = wan_image.first_frames(np.stack([pairs[i][0][0] for i in (2, 0)]), 9)
    for name, value in expected.items():
        assert torch.allclose(getattr(batch.cond, name), value, atol=1e-4), name  # convolutions of another batch
    x = torch.randn_like(batch.x0)
    assert batch.cond.free(x).eq(1).all() and torch.equal(batch.cond.clamp(x), x)
    both = join([batch.cond, batch.cond.without_text()])
    for name in expected:
        own = getattr(batch.cond, name)
        assert torch.equal(getattr(both, name), torch.cat([own, own])), "the null condition keeps the image"
    t = torch.tensor([0.3, 0.8])
    velocity = [wan_image.velocity(wan_image.transformer, wan_image.transformer, x, t, c)
                for c in (batch.cond, batch.cond[torch.tensor([1, 0])][torch.tensor([1, 0])])]  # fmt: skip
    assert torch.equal(*velocity) and velocity[0].shape == x.shape
    prompts = make_prompts(pairs, 1, 1.0, 0)
    cond = condition(wan_image, prompts, "", 9)
    assert torch.allclose(cond.image_latents[[2, 0]], batch.cond.image_latents, atol=1e-4) and cond.given is None
    assert blank(wan_image, 2, (9, 32, 32)).image_latents.shape == (2, *SHAPE)


@torch.no_grad()
def test_views_skips_and_gates_see_the_image(wan_image):
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 2, *SHAPE, generator=g)
    s = Sample(x0, x1, torch.tensor([0.3, 0.8]), given(wan_image, np.concatenate([image(), image(1)]), [PROMPT, OTHER]))
    prunable = Prunable(wan_image, wan_image.transformer)
    swept, naive = dict(prunable.skip_each(s)), dict(prunable.skip_each_naively(s))
    assert all(torch.equal(swept[key], naive[key]) for key in naive) and len(naive) == 5
    small = wan_image.prepare(removed(wan_image.transformer, {"blocks": (0, 1, 3)}, wan_image.stacks))
    assert torch.equal(Prunable(wan_image, small).velocity(s), naive["blocks", 2])
    with torch.enable_grad():
        slopes = prunable.gate_gradients(s, lambda _, v: v.pow(2).mean((1, 2, 3, 4)))
    assert all(v.shape == (2,) and v.abs().min() > 0 for v in slopes.values())
    assert len(prunable.cross_frame_attention(s, 8)) == 4 and prunable.ffn["blocks"][0] == 32


def test_checkpointed_blocks_are_computed_again_under_the_same_image(seeing):
    adapter = adapter_for(seeing).load(seeing)
    cond, module = given(adapter, image(), [PROMPT]), adapter.transformer.requires_grad_(True)
    x, t, found = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5]), []
    for on in (False, True):
        if on:
            module.enable_gradient_checkpointing()
        module.zero_grad()
        adapter.velocity(module, module, x, t, cond).pow(2).sum().backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    for plain, again in zip(*found, strict=True):
        assert torch.allclose(plain, again, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_what_sees_is_in_float32_and_clips_are_the_stock_pipelines(seeing):
    adapter = adapter_for(seeing).load(seeing, dtype="bfloat16")
    pipe = adapter.stock_pipeline(seeing, True, "bfloat16")
    for one in (adapter.pipe, pipe):
        assert {one.vae.dtype, one.image_encoder.dtype} == {torch.float32}
        assert {one.transformer.patch_embedding.weight.dtype, one.text_encoder.dtype} == {torch.bfloat16}
        held = load_file(seeing / "image_encoder" / "model.safetensors")
        assert all(torch.equal(v, held[n]) for n, v in one.image_encoder.state_dict().items() if n in held)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    frames = pipe(
        image=shown(image()), prompt=PROMPT, **SIZE, num_inference_steps=4, guidance_scale=1.0, output_type="np"
    ).frames[0]
    found = ours(adapter, adapter.teacher_scheduler(), image())
    # bfloat16 has 8 bits: sums without padding rows, through four steps; a mean of two 8-bit levels
    assert np.abs(frames - found).mean() < 8e-3


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("transformer/config.json", {"pos_embed_seq_len": 514}, "made for a first and a last frame"),
        ("transformer/config.json", {"in_channels": 9}, "takes 5 channels beside the latents, not 8"),
        ("transformer/config.json", {"in_channels": 4}, "attends to an image and has no latents of it"),
        ("transformer/config.json", {"in_channels": "wide"}, "does not load as a Wan image-to-video pipeline"),
        ("vae/config.json", {"z_dim": None}, "does not load as a Wan image-to-video pipeline"),
        ("model_index.json", {"image_encoder": 5}, "does not load as a Wan image-to-video pipeline"),
        ("model_index.json", {"expand_timesteps": True}, "has times for each token and an image beside them"),
        ("model_index.json", {"image_encoder": [None, None]}, "names no image_encoder"),
        ("model_index.json", {"image_processor": [None, None]}, "names no image_processor"),
        ("model_index.json", {"boundary_ratio": 0.9}, "two experts"),
        ("vae/config.json", {"latents_mean": [0.0]}, "latents_mean must be 4 numbers"),
        ("image_encoder/config.json", {"hidden_size": "wide"}, "does not load as a Wan image-to-video pipeline"),
    ],
)
def test_a_kind_that_is_not_supported_is_refused_in_one_line(seeing, tmp_path, file, entries, said):
    other = entered(seeing, tmp_path / "other", file, entries)
    with pytest.raises(UserError, match=said) as caught:
        adapter_for(other).load(other)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_images_that_was_saved_as_a_part_of_a_whole_model_loads(seeing, tmp_path):
    """As the published folders have it; a tensor that is missing is said by the name in the file."""
    named = "image_encoder", "vision_model."
    other = prefixed(seeing, tmp_path / "other", *named)
    found, expected = (adapter_for(f).load(f).first_frames(image(), 9)["image_tokens"] for f in (other, seeing))
    assert torch.equal(found, expected)
    less = prefixed(seeing, tmp_path / "less", *named, but=1)
    with pytest.raises(UserError, match="lacks the tensor"):
        adapter_for(less).load(less)


def test_of_a_processor_of_texts_and_images_the_part_for_images_stays(seeing, tmp_path):
    """As converters to diffusers leave it: the whole is named."""
    processor = {"image_processor": ["transformers", "CLIPProcessor"]}
    other = entered(seeing, tmp_path / "other", "model_index.json", processor)
    CLIPProcessor(CLIPImageProcessor(**SIGHT), clip_tokenizer()).save_pretrained(other / "image_processor")
    adapter = adapter_for(other).load(other)
    found = adapter.first_frames(image(), 9)["image_tokens"]
    scheduler = adapter.schedule(4, 5.0, "ode").scheduler
    save_pipeline(adapter, other, adapter.transformer, scheduler, tmp_path / "student")
    student = adapter_for(tmp_path / "student").load(tmp_path / "student")
    assert torch.equal(student.first_frames(image(), 9)["image_tokens"], found)
    expected = adapter_for(seeing).load(seeing).first_frames(image(), 9)["image_tokens"]
    # transformers 5.0 has two processors of images, which round resampled pixels differently
    assert torch.allclose(found, expected, atol=0.02)


def test_a_student_names_its_processor_as_every_transformers_does(seeing, tmp_path):
    """Where torchvision is missing transformers has another name for what is the same to a stock pipeline."""
    adapter = adapter_for(seeing).load(seeing)
    named = {"image_processor": ["transformers", "CLIPImageProcessorPil"]}
    other = entered(seeing, tmp_path / "other", "model_index.json", named)
    scheduler = adapter.schedule(4, 5.0, "ode").scheduler
    save_pipeline(adapter, other, adapter.transformer, scheduler, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["image_processor"] == ["transformers", "CLIPImageProcessor"]
    assert np.isfinite(clip(tmp_path, image(), guidance_scale=1.0)).all()


def test_an_encoder_that_the_transformer_has_no_use_for_is_not_asked(seeing, tmp_path):
    """As the stock pipeline: what counts is the transformer's config."""
    whole = json.loads((seeing / "model_index.json").read_text())
    sight = {part: whole[part] for part in SEES}
    blind = entered(write_pipeline(tmp_path / "own", sees=False), tmp_path / "blind", "model_index.json", sight)
    for part in SEES:
        shutil.copytree(seeing / part, blind / part)
    adapter = adapter_for(blind).load(blind)
    assert adapter.pipe.image_encoder is not None and adapter.first_frames(image(), 9).keys() == {"image_latents"}
    found = ours(adapter, adapter.teacher_scheduler(), image())
    assert np.abs(clip(blind, image(), guidance_scale=1.0) - found).max() < TOLERANCE


def test_large_clips_of_a_first_frame_are_made_and_encoded_one_by_one(seeing, monkeypatch):
    adapter, pictures, seen = adapter_for(seeing).load(seeing), np.concatenate([image(), image(1)]), []
    whole, plain = adapter.first_frames(pictures, 9), adapter.encode
    monkeypatch.setattr(adapter, "encode", lambda video: seen.append(video.shape) or plain(video))
    monkeypatch.setattr("flc.models.stock.PIXELS", 1)
    found = adapter.first_frames(pictures, 9)
    assert seen == [(1, 9, 32, 32, 3)] * 2
    assert torch.allclose(found["image_latents"], whole["image_latents"], atol=1e-4)  # another batch


@pytest.mark.parametrize("component", ["image_encoder", "image_processor"])
def test_a_component_that_is_named_and_missing_is_said(seeing, tmp_path, component):
    with pytest.raises(UserError, match=f"{component} is missing though model_index.json names it"):
        adapter_for(lacking(seeing, tmp_path / "other", component))


def test_an_outline_counts_what_the_whole_holds(folder, wan_image, tmp_path):
    alone = configs(folder, tmp_path / "alone")
    outline = adapter_for(alone, weights=False).load(alone, dtype="bfloat16", parts=frozenset())
    assert outline.dtype == torch.bfloat16 and {p.device.type for p in outline.transformer.parameters()} == {"meta"}
    assert Prunable(outline, outline.transformer).weights == Prunable(wan_image, wan_image.transformer).weights
    assert outline.latent_shape(9, 32, 32) == SHAPE and outline.size_of(alone) == (81, 480, 832)
    assert outline.fps_of(alone) == 16 and outline.takes_first_frame(alone) and outline.needs_first_frame


@pytest.mark.parametrize(
    ("entries", "says"),
    [({"crop_size": {"height": 32, "width": 2**40}}, f"width {2**40} is no size of an image"),
     ({"size": {"shortest_edge": -1}}, "shortest_edge -1 is no size of an image"),
     ({"crop_size": {"height": 48, "width": 48}}, r"makes \(1, 3, 48, 48\) of an image, its encoder takes \(1, 3, "),
     ({"image_std": [0.5, 0.5]}, "does not load as a Wan image-to-video pipeline"),
     ({"image_mean": [0.5, 0.5, "much"]}, "does not load as a Wan image-to-video pipeline")],
    ids=str,
)  # fmt: skip
def test_a_processor_that_makes_nothing_of_an_image_for_its_encoder_is_refused(tmp_path, entries, says):
    folder = write_pipeline(tmp_path / "model")
    path = folder / "image_processor" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(UserError, match=says):
        adapter_for(folder).load(folder)
