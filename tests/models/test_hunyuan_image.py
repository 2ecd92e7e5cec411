"""HunyuanVideo image-to-video: what the adapter computes is what the stock pipeline computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from flc.api import Sample
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips
from flc.errors import UserError
from flc.evaluate.sampling import blank, condition, make_prompts
from flc.export.pipeline import save_pipeline
from flc.models.condition import join
from flc.models.folder import adapter_for
from flc.models.hunyuan_image import HunyuanImageAdapter
from flc.models.prunable import Prunable
from flc.models.view import removed
from tests.models.changed import configs, entered, lacking, named
from tests.models.first_frame import OTHER, PROMPT, SHAPE, SIZE, TOLERANCE, given, image, ours, shown, stock_clip
from tests.models.hunyuan_image import write_pipeline

TOKENS = {"transformer_blocks": (0, 2), "single_transformer_blocks": (0, 1, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def hunyuan(folder) -> HunyuanImageAdapter:
    return adapter_for(folder).load(folder)


def clip(folder: Path, picture: np.ndarray, **call: Any) -> np.ndarray:
    """transformers 5 does not read a published folder's tokenizer.json with the class that it names."""
    whole = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    kind = HunyuanVideoImageToVideoPipeline
    return stock_clip(kind.from_pretrained(folder, tokenizer=whole, dtype=torch.float32), picture, **call)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_teachers_clip_is_the_stock_pipelines(hunyuan, folder, guidance):
    scheduler = hunyuan.teacher_scheduler()
    found = ours(hunyuan, scheduler, image(), guidance)
    asked = hunyuan.call_settings(folder, guidance)
    stock = clip(folder, image(), **asked)
    assert np.abs(stock - found).max() < TOLERANCE and stock.std() > 0.01
    assert np.abs(clip(folder, image(1), **asked) - found).max() > 5 * TOLERANCE, "the first frame matters here"
    other = clip(folder, image(), **hunyuan.call_settings(folder, 4.0 - guidance))
    assert np.abs(other - found).max() > 5 * TOLERANCE, "and guidance by the text"


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_a_students_clip_is_the_stock_pipelines(hunyuan, folder, tmp_path, sampler):
    """The noise of later steps, too, is drawn for the frames after the first alone."""
    schedule = hunyuan.schedule(4, 5.0, sampler)
    small = hunyuan.prepare(removed(hunyuan.transformer, TOKENS, hunyuan.stacks))
    save_pipeline(hunyuan, folder, small, schedule.scheduler, tmp_path)
    student = adapter_for(tmp_path).load(tmp_path)
    plain = HunyuanVideoImageToVideoPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    found = stock_clip(plain, image(), guidance_scale=6.0)
    assert np.abs(found - ours(student, schedule.scheduler, image())).max() < TOLERANCE
    assert type(student) is HunyuanImageAdapter
    assert [len(student.transformer.get_submodule(stack)) for stack in student.stacks] == [2, 3]


@torch.no_grad()
def test_what_is_seen_and_read_is_the_stock_pipelines(hunyuan):
    """Also in a batch, whose prompts are of different lengths, and of a prompt that is cut."""
    pictures, prompts = np.concatenate([image(0), image(1)]), [PROMPT, "a cat " * 200]
    found, pipe = hunyuan.first_frames(pictures, 9, prompts), hunyuan.pipe
    for i, prompt in enumerate(prompts):
        one = shown(pictures[i : i + 1])
        rows, _, mask = pipe.encode_prompt(one, [prompt], device="cpu", image_embed_interleave=4)
        kept = int(mask.sum())
        assert torch.equal(found["text"][i, :kept], rows[0, :kept]) and not found["text"][i, kept:].any()
        assert mask[0, :kept].eq(1).all() and kept > 144, "every fourth row of the image, and what is read"
        pixels = pipe.video_processor.preprocess(one, height=32, width=32)
        _, first = pipe.prepare_latents(
            pixels, 1, 4, 32, 32, 9, torch.float32, torch.device("cpu"), None, None, "token_replace"
        )  # fmt: skip
        assert torch.allclose(found["first"][i : i + 1], first, atol=1e-5)  # another batch
    assert found["given"].all() and found.keys() == {"first", "given", "text"}
    null = hunyuan.condition([PROMPT], "blurred")
    black = shown(np.zeros((1, 32, 32, 3), np.float32))
    rows, pooled, mask = pipe.encode_prompt(black, ["blurred"], device="cpu")  # as the stock call has it: every second
    assert torch.allclose(null.null[0], rows[0, : int(mask.sum())], atol=1e-5) and null.null.shape[1] > 288
    assert torch.equal(null.null_pooled, pooled)


@torch.no_grad()
def test_encoded_clips_carry_their_own_first_frame_which_is_in_no_loss(hunyuan, tmp_path):
    pairs = list(drawn_clips(19, 9, 32, 32, seed=0))
    encode(hunyuan, pairs, tmp_path)  # two parts, with texts of different lengths
    data, rows = LatentClips(tmp_path, hunyuan), torch.tensor([18, 0])
    batch = data.batch(rows, torch.tensor([True, False]))
    expected = hunyuan.first_frames(np.stack([pairs[i][0][0] for i in rows]), 9, [pairs[i][1] for i in rows])
    own = batch.cond.text[:, : expected["text"].shape[1]]
    assert torch.allclose(own, expected["text"], atol=1e-4) and batch.cond.given.all()
    assert torch.allclose(batch.cond.first, expected["first"], atol=1e-4)
    assert batch.cond.text.shape[1] == data.longest, "the same for every batch"
    x = torch.randn_like(batch.x0)
    assert batch.cond.free(x)[:, :, 0].eq(0).all() and batch.cond.free(x)[:, :, 1:].eq(1).all()
    begun = batch.cond.begun(x)
    assert torch.allclose(begun, 0.999 * x + 0.001 * batch.cond.first, atol=1e-6) and not torch.equal(begun, x)
    both = join([batch.cond, batch.cond.without_text()])
    assert torch.equal(both.first, torch.cat([batch.cond.first] * 2)) and both.trace == batch.cond.trace > 0
    assert torch.equal(both.text[2:, : both.null.shape[1]], both.null.expand(2, -1, -1))
    t = torch.tensor([0.3, 0.8])
    velocity = [hunyuan.velocity(hunyuan.transformer, hunyuan.transformer, y, t, batch.cond)
                for y in (x, torch.cat([x[:, :, :1] + 5, x[:, :, 1:]], 2))]  # fmt: skip
    assert torch.equal(*velocity) and not velocity[0][:, :, 0].any(), "what stands at the first frame is not looked at"
    cond = condition(hunyuan, make_prompts(pairs[:2], 1, 1.0, 0), "", 9)
    assert torch.allclose(cond.first[0], batch.cond.first[1], atol=1e-4) and cond.given.all()
    assert blank(hunyuan, 2, (9, 32, 32)).first.shape == (2, 4, 1, 4, 4)


@torch.no_grad()
def test_views_skips_and_gates_see_the_first_frame(hunyuan):
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 2, *SHAPE, generator=g)
    s = Sample(x0, x1, torch.tensor([0.3, 0.8]), given(hunyuan, np.concatenate([image(), image(1)]), [PROMPT, OTHER]))
    prunable = Prunable(hunyuan, hunyuan.transformer)
    swept, naive = dict(prunable.skip_each(s)), dict(prunable.skip_each_naively(s))
    assert all(torch.equal(swept[key], naive[key]) for key in naive) and len(naive) == 8
    kept = {"transformer_blocks": (0, 1, 2), "single_transformer_blocks": (0, 1, 3)}
    small = hunyuan.prepare(removed(hunyuan.transformer, kept, hunyuan.stacks))
    assert torch.equal(Prunable(hunyuan, small).velocity(s), naive["single_transformer_blocks", 2])
    with torch.enable_grad():
        slopes = prunable.gate_gradients(s, lambda _, v: v.pow(2).mean((1, 2, 3, 4)))
    assert all(v.shape == (2,) and v.abs().min() > 0 for v in slopes.values())
    assert len(prunable.cross_frame_attention(s, 8)) == 7


def test_in_bfloat16_clips_are_the_stock_pipelines(folder):
    adapter = adapter_for(folder).load(folder, dtype="bfloat16")
    pipe = adapter.stock_pipeline(folder, True, "bfloat16")
    for one in (adapter.pipe, pipe):
        assert one.vae.dtype == torch.float32 and one.vae.use_tiling
        assert {one.transformer.dtype, one.text_encoder.dtype, one.text_encoder_2.dtype} == {torch.bfloat16}
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    asked = {**SIZE, "num_inference_steps": 4, **adapter.call_settings(folder, 1.0), "output_type": "np"}
    frames = pipe(image=shown(image()), prompt=PROMPT, **asked).frames[0]
    found = ours(adapter, adapter.teacher_scheduler(), image())
    # bfloat16 has 8 bits: sums without padding rows, through four steps; a mean of two 8-bit levels
    assert np.abs(frames - found).mean() < 8e-3


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("transformer/config.json", {"image_condition_type": "latent_concat"}, "as channels beside the clip"),
        ("transformer/config.json", {"in_channels": 9}, "as channels beside the clip"),
        ("transformer/config.json", {"patch_size_t": 2}, "tokens of several latent frames"),
        ("model_index.json", {"image_processor": [None, None]}, "names no image_processor"),
        ("model_index.json", {"_class_name": "HunyuanVideoPipeline"}, "names another pipeline"),
        ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "padding_side must be right"),
        ("text_encoder/config.json", {"vision_config": 3}, "does not load as a HunyuanVideo image-to-video pipeline"),
    ],
)
def test_a_kind_that_is_not_supported_is_refused_in_one_line(folder, tmp_path, file, entries, said):
    other = entered(folder, tmp_path / "other", file, entries)
    with pytest.raises(UserError, match=said) as caught:
        adapter_for(other).load(other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("component", ["text_encoder", "image_processor"])
def test_a_component_that_is_named_and_missing_is_said(folder, tmp_path, component):
    with pytest.raises(UserError, match=f"{component} is missing though model_index.json names it"):
        adapter_for(lacking(folder, tmp_path / "other", component))


def published(name: str) -> str:
    """Of a part of Llava, as before transformers 4.52 wrote it, and as the published folder has it."""
    name = name.removeprefix("model.") if name.startswith(("model.vision_tower", "model.multi_modal")) else name
    name = name.replace("model.language_model.", "language_model.model.", 1)
    name = f"language_model.{name}" if name.startswith("lm_head") else name
    inside = name.removeprefix("vision_tower.").removeprefix("vision_model.")
    return f"vision_tower.vision_model.{inside}" if name.startswith("vision_tower.") else name


def test_an_encoder_whose_parts_have_the_published_names_loads_and_one_that_is_missing_is_said(
    folder, tmp_path, hunyuan
):
    other = named(folder, tmp_path / "other", "text_encoder", published)
    held = load_file(other / "text_encoder" / "model.safetensors")
    starts = (
        "language_model.lm_head.",
        "language_model.model.",
        "multi_modal_projector.",
        "vision_tower.vision_model.",
    )
    assert all(name.startswith(starts) for name in held) and all(any(n.startswith(s) for n in held) for s in starts)
    found, expected = (a.first_frames(image(), 9, [PROMPT])["text"] for a in (adapter_for(other).load(other), hunyuan))
    assert torch.equal(found, expected)
    for but in (1, len(held) // 2):
        less = named(folder, tmp_path / f"less-{but}", "text_encoder", published, but)
        with pytest.raises(UserError, match="lacks the tensor"):
            adapter_for(less).load(less)


def test_an_encoder_that_makes_other_rows_of_an_image_is_refused(tmp_path):
    other = write_pipeline(tmp_path, sight=46)
    with pytest.raises(UserError, match="makes 529 rows of an image, not the stock 576"):
        adapter_for(other).load(other)


def test_an_outline_counts_what_the_whole_holds(folder, hunyuan, tmp_path):
    alone = configs(folder, tmp_path / "alone")
    outline = adapter_for(alone, weights=False).load(alone, dtype="bfloat16", parts=frozenset())
    assert outline.dtype == torch.bfloat16 and {p.device.type for p in outline.transformer.parameters()} == {"meta"}
    assert Prunable(outline, outline.transformer).weights == Prunable(hunyuan, hunyuan.transformer).weights
    assert outline.latent_shape(9, 32, 32) == SHAPE and outline.size_of(alone) == (129, 720, 1280)
    assert outline.fps_of(alone) == 24 and outline.takes_first_frame(alone) and outline.needs_first_frame
