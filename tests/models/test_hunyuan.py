"""HunyuanVideo: what the adapter computes is what the stock pipeline computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoPipeline
from diffusers.models.transformers import transformer_hunyuan_video as stock
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from flc.api import Role, Sample, View
from flc.data.latents import LatentClips, encode
from flc.data.source import drawn_clips
from flc.errors import UserError
from flc.export.pipeline import save_pipeline
from flc.models.condition import join
from flc.models.folder import adapter_for
from flc.models.hunyuan import HunyuanAdapter
from flc.models.prunable import Prunable
from flc.registry import create
from flc.sample import generators_for, noise_for, sample
from flc.schedule import Walk
from flc.train.nets import ADAPTER, RoleNet, build
from tests.models.changed import configs, entered, lacking, prefixed
from tests.models.hunyuan import write_pipeline

PROMPT, OTHER = "a blue square moving up", "a cat"
SIZE = {"height": 32, "width": 32, "num_frames": 9}
SHAPE = (4, 3, 4, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def hunyuan(folder) -> HunyuanAdapter:
    return adapter_for(folder).load(folder)


def clip(folder: Path, scheduler: Any = None, steps: int = 4, **call: Any) -> np.ndarray:
    whole = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    pipe = HunyuanVideoPipeline.from_pretrained(folder, tokenizer=whole)
    pipe.scheduler = scheduler or pipe.scheduler
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    return pipe(PROMPT, **SIZE, num_inference_steps=steps, output_type="np", **call).frames[0]


def ours(adapter: Any, walk: Walk, guidance: float = 1.0) -> np.ndarray:
    net, generators = RoleNet(adapter, adapter.transformer, adapter.transformer, View()), generators_for([7])
    noise = noise_for(adapter.latent_shape(9, 32, 32), generators)
    return adapter.decode(sample(net, walk, guidance, noise, adapter.condition([PROMPT]), generators))[0]


# float32 sums in another order (no padding rows of text, guidance in one batch), through 4 steps and a decoder; one
# 8-bit level is .004
TOLERANCE = 2e-3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_teachers_clip_is_the_stock_pipelines(hunyuan, folder, guidance):
    walk = Walk(hunyuan.teacher_scheduler(), 4, hunyuan.grid(4))
    found = ours(hunyuan, walk, guidance)
    asked = hunyuan.call_settings(folder, guidance)
    negative = {"negative_prompt": ""} if guidance > 1 else {}
    assert asked == {"true_cfg_scale": guidance, "guidance_scale": 6.0} | negative
    stock_clip = clip(folder, **asked)
    assert np.abs(stock_clip - found).max() < TOLERANCE and stock_clip.std() > 0.01
    other = clip(folder, **hunyuan.call_settings(folder, 4.0 - guidance))
    assert np.abs(other - found).max() > 5 * TOLERANCE, "guidance by the text matters here"


@pytest.mark.parametrize("sampler", ["sde", "ode"])
def test_a_students_clip_and_sigmas_are_the_stock_pipelines(hunyuan, folder, tmp_path, sampler):
    schedule = hunyuan.schedule(4, 5.0, sampler)
    assert schedule.sigmas == pytest.approx([1, 15 / 16, 5 / 6, 5 / 8, 0], abs=1e-6)  # k s / (1 + (k - 1) s), float32
    save_pipeline(hunyuan, folder, hunyuan.transformer, schedule.scheduler, tmp_path)
    seen: list[float] = []

    def record(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(float(time) / 1000)
        return tensors

    found = clip(tmp_path, callback_on_step_end=record)
    assert seen == pytest.approx(schedule.sigmas[:-1], abs=1e-6)
    assert np.abs(found - ours(hunyuan, hunyuan.schedule(4, 5.0, sampler))).max() < TOLERANCE


def test_the_embedded_guidance_of_the_notes_is_the_transformers_and_goes_on_to_the_student(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "flc.json").write_text(json.dumps({"embedded_guidance": 2.5}))
    adapter = adapter_for(other).load(other)
    found = ours(adapter, Walk(adapter.teacher_scheduler(), 4, adapter.grid(4)))
    assert np.abs(clip(folder, guidance_scale=2.5) - found).max() < TOLERANCE
    assert np.abs(clip(folder, guidance_scale=6.0) - found).max() > 5 * TOLERANCE
    assert adapter.declaration() == {"embedded_guidance": 2.5}
    assert adapter.call_settings(other, 1.0) == {"true_cfg_scale": 1.0, "guidance_scale": 2.5}


def test_weights_without_the_input_for_guidance_are_called_without_it_and_guided_by_the_text(tmp_path):
    folder = write_pipeline(tmp_path, guidance=False)
    adapter = adapter_for(folder).load(folder)
    walk = Walk(adapter.teacher_scheduler(), 4, adapter.grid(4))
    assert np.abs(clip(folder) - ours(adapter, walk)).max() < TOLERANCE
    assert adapter.guidance_of(folder) == 6.0 and adapter.declaration() == {}
    assert adapter.call_settings(folder, 2.0, "blurred") == {"true_cfg_scale": 2.0, "negative_prompt": "blurred"}
    assert adapter.advice(create("teacher", "well-guided"), []) is None


def test_a_teacher_that_adds_its_default_guidance_to_the_embedded_one_is_said(hunyuan):
    default, without = create("teacher", "well-guided"), create("teacher", "well-guided", {"beta1": 1, "spread1": 0})
    assert "--set teacher.beta1=... says how much" in (hunyuan.advice(default, []) or "")
    assert hunyuan.advice(default, ["beta1"]) is None and hunyuan.advice(without, []) is None
    assert "default scale 3.5" in (hunyuan.advice(create("teacher", "cfg"), ["spread"]) or "")


def test_texts_are_split_as_the_tokenizers_file_says_here_and_in_a_student(hunyuan, folder, tmp_path):
    """transformers 5 drops the byte-level splitting and the first token of a class named as the published one is."""
    said = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    save_pipeline(hunyuan, folder, hunyuan.transformer, hunyuan.schedule(4, 5.0, "ode").scheduler, tmp_path)
    for pipe in (hunyuan.pipe, HunyuanVideoPipeline.from_pretrained(tmp_path)):
        assert pipe.tokenizer("two words: a\nline").input_ids == said.encode("two words: a\nline").ids
        assert pipe.tokenizer.padding_side == "right" and pipe.tokenizer.pad_token == "<pad>"


def test_a_tokenizer_that_the_templates_cut_does_not_fit_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    path = other / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))  # no first token
    with pytest.raises(UserError, match="makes 94 tokens of the stock prompt template, not 95"):
        adapter_for(other).load(other)


def test_large_clips_are_decoded_in_the_tiles_of_the_family(hunyuan):
    latents = torch.randn(1, 4, 2, 34, 34, generator=torch.Generator().manual_seed(0))
    found, vae = hunyuan.decode(latents), hunyuan.pipe.vae
    assert found.shape == (1, 5, 272, 272, 3)
    vae.use_tiling = False
    try:
        whole = hunyuan.decode(latents)
    finally:
        vae.enable_tiling()
    assert np.abs(found - whole).max() > 1e-3, "what a stock pipeline without the card's line would show"
    assert np.array_equal(hunyuan.decode(latents), found)


def test_in_bfloat16_the_autoencoder_alone_is_in_float32_and_clips_are_the_stock_pipelines(folder):
    adapter = adapter_for(folder).load(folder, dtype="bfloat16")
    pipe = adapter.stock_pipeline(folder, False, "bfloat16")
    for one in (adapter.pipe, pipe):
        assert one.vae.dtype == torch.float32 and one.vae.use_tiling
        held = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(value, held[name]) for name, value in one.vae.state_dict().items()), "never rounded"
        assert {one.transformer.dtype, one.text_encoder.dtype, one.text_encoder_2.dtype} == {torch.bfloat16}
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    frames = pipe(PROMPT, **SIZE, num_inference_steps=4, output_type="np").frames[0]
    found = ours(adapter, Walk(adapter.teacher_scheduler(), 4, adapter.grid(4)))
    # bfloat16 has 8 bits: sums without padding rows, through four steps; a mean of two 8-bit levels
    assert np.abs(frames - found).mean() < 8e-3


@torch.no_grad()
def test_texts_without_their_padding_rows_give_the_same_velocity(hunyuan):
    """Padding is masked in every attention and in the mean: exact but for the order of float32 sums."""
    x, t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.9])
    embeds, pooled, mask = hunyuan.pipe.encode_prompt([PROMPT, OTHER], device="cpu", max_sequence_length=256)
    assert embeds.shape[1] == 256 and mask.sum(1).tolist() == hunyuan.condition([PROMPT, OTHER]).text.ne(0).any(
        -1
    ).sum(1).tolist()  # fmt: skip
    guidance = torch.full((2,), 6000.0)
    whole = hunyuan.transformer(x, t * 1000, embeds, mask, pooled, guidance, return_dict=False)[0]
    found = hunyuan.velocity(
        hunyuan.transformer, hunyuan.transformer, x, t, hunyuan.condition([PROMPT, OTHER])
    )  # fmt: skip
    assert torch.allclose(found, whole, atol=2e-5)
    swapped = hunyuan.velocity(
        hunyuan.transformer, hunyuan.transformer, x, t, hunyuan.condition([OTHER, PROMPT])
    )  # fmt: skip
    assert not torch.allclose(swapped, whole, atol=1e-3), "texts matter here"


@torch.no_grad()
def test_a_condition_carries_both_encoders_states(hunyuan, tmp_path):
    encode(hunyuan, list(drawn_clips(3, 9, 32, 32, seed=0)), tmp_path)
    cond = LatentClips(tmp_path, hunyuan).batch(torch.tensor([2, 0]), None).cond
    null = hunyuan.condition([""])
    assert null.text.shape[1] == 1, "the end of the turn, after the template"
    dropped = cond.with_text_dropped(torch.tensor([True, False]))
    for part, kept in ((cond.without_text()[0:1], null), (dropped[0:1], null), (dropped[1:2], cond[1:2])):
        rows = kept.text.shape[1]
        assert torch.equal(part.text[:, :rows], kept.text) and not part.text[:, rows:].any()
        assert torch.equal(part.pooled, kept.pooled)
    both = join([cond, cond.without_text()])
    assert torch.equal(both[2:].pooled, null.pooled.expand(2, -1)) and torch.equal(both[:2].pooled, cond.pooled)
    assert not torch.equal(cond.pooled[0], cond.pooled[1])


def test_its_latents_are_the_autoencoders_at_the_scale_that_the_transformer_sees(hunyuan):
    video = np.stack([v for v, _ in drawn_clips(2, 9, 32, 32, seed=0)])
    x = torch.from_numpy(video).permute(0, 4, 1, 2, 3) * 2 - 1
    with torch.no_grad():
        plain = hunyuan.pipe.vae.encode(x).latent_dist.mode()
    assert torch.equal(hunyuan.encode(video), plain * hunyuan.pipe.vae.config.scaling_factor)
    assert hunyuan.latent_shape(9, 32, 32) == tuple(plain.shape[1:]) == SHAPE
    assert torch.allclose(hunyuan.raw(hunyuan.normalised(plain)), plain, rtol=1e-6)
    assert hunyuan.pipe.vae.use_tiling and hunyuan.stock_class(False) is HunyuanVideoPipeline
    with pytest.raises(UserError, match="--height 40 must be a positive multiple of 16"):
        hunyuan.latent_shape(9, 40, 32)


@torch.no_grad()
def test_the_recorded_map_is_that_of_the_joint_attention_among_the_clips_tokens(hunyuan, monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = stock.dispatch_attention_fn
    monkeypatch.setattr(
        stock, "dispatch_attention_fn", lambda q, k, v, **more: seen.append((q, k)) or plain(q, k, v, **more)
    )
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 2, *SHAPE, generator=g)
    s = Sample(x0, x1, torch.tensor([0.3, 0.8]), hunyuan.condition([PROMPT, OTHER]))
    shares = Prunable(hunyuan, hunyuan.transformer).cross_frame_attention(s, 100)
    assert list(shares) == [(k, i) for k, n in zip(hunyuan.stacks, (3, 4), strict=True) for i in range(n)]
    tokens, per_frame = 12, 4
    frame_of = torch.arange(tokens) // per_frame
    for share, (queries, keys) in zip(shares.values(), seen, strict=True):
        q, k = queries[:, :tokens], keys[:, :tokens]
        logits = torch.einsum("bqhc,bkhc->bhqk", q, k) / q.shape[-1] ** 0.5
        elsewhere = (logits.softmax(-1) * (frame_of[:, None] != frame_of)).sum(-1).mean(-1)
        assert torch.allclose(share, elsewhere * 3 / 2, atol=1e-5)
    processors = {type(b.attn.processor) for b in hunyuan.transformer.transformer_blocks}
    assert processors == {stock.HunyuanVideoAttnProcessor2_0}


def test_a_low_rank_adapter_lies_on_both_stacks_and_nowhere_else(folder):
    adapter = adapter_for(folder).load(folder)
    fake = build(adapter, adapter.transformer, {"fake": Role("lora", View(), rank=2)})["fake"]
    held = {n.partition(".lora_A")[0] for n, _ in fake.named_parameters() if f"lora_A.{ADAPTER}" in n}
    inside = {
        f"{stack}.{i}.{name}"
        for stack in adapter.stacks
        for i, block in enumerate(adapter.transformer.get_submodule(stack))
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and "norm" not in name and "lora" not in name
    }
    assert held == {name.removesuffix(".base_layer") for name in inside}, "all but what modulates"
    assert len(held) == 3 * 12 + 4 * 5


def test_feed_forward_layers_are_not_narrowed(hunyuan):
    prunable = Prunable(hunyuan, hunyuan.transformer)
    assert prunable.ffn == {}
    with pytest.raises(UserError, match="cannot be narrowed"):
        prunable.feed_forward("transformer_blocks", 0)


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("transformer/config.json", {"image_condition_type": "token_replace"}, "image-to-video"),
        ("transformer/config.json", {"in_channels": 9}, "image-to-video"),
        ("transformer/config.json", {"patch_size_t": 2}, "tokens of several latent frames"),
        ("model_index.json", {"_class_name": "HunyuanSkyreelsImageToVideoPipeline"}, "HunyuanSkyreels"),
        ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "padding_side must be right"),
        ("vae/config.json", {"scaling_factor": "big"}, "scaling_factor='big' is no float"),
        ("transformer/config.json", {"rope_axes_dim": [4, 4, 6]}, "must be three even numbers that add up to 12"),
        ("transformer/config.json", {"rope_axes_dim": [5, 5, 2]}, "must be three even numbers that add up to 12"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor must be a number"),
        ("scheduler/scheduler_config.json", {"shift": True}, "shift=True is no float"),
        ("text_encoder_2/config.json", {"hidden_size": "wide"}, "does not load as a HunyuanVideo pipeline"),
    ],
)
def test_a_kind_that_is_not_supported_is_refused_in_one_line(folder, tmp_path, file, entries, said):
    other = entered(folder, tmp_path / "other", file, entries)
    with pytest.raises(UserError, match=said) as caught:
        adapter_for(other).load(other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("component", ["text_encoder_2", "tokenizer_2"])
def test_a_component_that_is_named_and_missing_is_said(folder, tmp_path, component):
    with pytest.raises(UserError, match=f"{component} is missing though model_index.json names it"):
        adapter_for(lacking(folder, tmp_path / "other", component))


@pytest.mark.parametrize(("component", "prefix"), [("text_encoder", "model."), ("text_encoder_2", "text_model.")])
def test_encoders_that_were_saved_as_a_part_of_a_whole_model_load(folder, tmp_path, hunyuan, component, prefix):
    """As the published folders have them; a tensor that is missing is said by the name in the file."""
    other = prefixed(folder, tmp_path / "other", component, prefix)
    adapter = adapter_for(other).load(other)
    for found, expected in zip(adapter.texts([PROMPT])[0], hunyuan.texts([PROMPT])[0], strict=True):
        assert torch.equal(found, expected)
    less = prefixed(folder, tmp_path / "less", component, prefix, but=1)
    with pytest.raises(UserError, match="lacks the tensor"):
        adapter_for(less).load(less)


def test_a_transformer_whose_tensors_have_other_names_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({f"model.{name}": value for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacks the tensor"):
        adapter_for(other).load(other)


def test_an_outline_counts_what_the_whole_holds(folder, hunyuan, tmp_path):
    alone = configs(folder, tmp_path / "alone")
    outline = adapter_for(alone, weights=False).load(alone, dtype="bfloat16", parts=frozenset())
    assert outline.dtype == torch.bfloat16 and {p.device.type for p in outline.transformer.parameters()} == {"meta"}
    whole = Prunable(hunyuan, hunyuan.transformer)
    assert Prunable(outline, outline.transformer).weights == whole.weights
    assert outline.latent_shape(9, 32, 32) == SHAPE and outline.size_of(alone) == (129, 720, 1280)
    assert (outline.fps_of(alone), outline.guidance_of(alone), outline.shift) == (24, 1.0, 7.0)
