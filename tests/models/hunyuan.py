"""A whole HunyuanVideo pipeline in miniature, with random weights, as stock diffusers writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

BEGIN, SPECIAL = "<|begin_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
IMAGE = "<image>"
NARROW = {"intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-"


def llama_tokenizer(whole_template: dict[str, Any] = DEFAULT_PROMPT_TEMPLATE) -> PreTrainedTokenizerFast:
    """As Llama 3's: bytes, a token before each text. It makes of a stock pipeline's template the number of tokens
    that the pipeline cuts off."""
    template = whole_template["template"].partition("{}")[0]
    for size in range(460, 620):
        whole = Tokenizer(BPE())
        whole.pre_tokenizer, whole.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet, special = pre_tokenizers.ByteLevel.alphabet(), [BEGIN, "<pad>", *SPECIAL, IMAGE]
        whole.train_from_iterator(
            [template], BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet,
                                   show_progress=False)
        )  # fmt: skip
        whole.post_processor = TemplateProcessing(f"{BEGIN} $A", special_tokens=[(BEGIN, whole.token_to_id(BEGIN))])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=whole, bos_token=BEGIN, eos_token=SPECIAL[-1], pad_token="<pad>", padding_side="right",
            extra_special_tokens=[*SPECIAL[:-1], IMAGE],
        )  # fmt: skip
        if len(tokenizer(template).input_ids) == whole_template["crop_start"]:
            return tokenizer
    raise AssertionError("no vocabulary of these sizes cuts the template into as many tokens as Llama's")


def clip_tokenizer() -> CLIPTokenizer:
    letters = [*LETTERS.replace("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "")]
    vocab = {word: i for i, word in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    for word in ("<|startoftext|>", "<|endoftext|>"):
        vocab[word] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[])


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, **NARROW, bos_token_id=0, eos_token_id=4, pad_token_id=1
    )  # fmt: skip


def pooled_encoder() -> dict[str, Any]:
    second = clip_tokenizer()
    begins, ends = second.bos_token_id, second.eos_token_id
    return {
        "tokenizer_2": second,
        "text_encoder_2": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(second), hidden_size=16, **NARROW, bos_token_id=begins, eos_token_id=ends,
                pad_token_id=ends,
            )
        ),
    }  # fmt: skip


def encoders() -> dict[str, Any]:
    first = llama_tokenizer()
    return {"tokenizer": first, "text_encoder": LlamaModel(llama_config(first)), **pooled_encoder()}


def transformer(double: int = 3, single: int = 4, guidance: bool = True, width: int = 24, **more: Any) -> Any:
    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=double,
        num_single_layers=single, num_refiner_layers=1, text_embed_dim=width, pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4), guidance_embeds=guidance, **more,
    )  # fmt: skip


def write_pipeline(folder: Path, guidance: bool = True, size: tuple[int, int, int] = (9, 32, 32)) -> Path:
    """Two stacks of 3 and 4 blocks, awake; texts of two encoders; notes of a small size. Returns the folder."""
    torch.manual_seed(0)
    return save(folder, HunyuanVideoPipeline, transformer(guidance=guidance), size, encoders())


def save(folder: Path, kind: Any, network: Any, size: tuple[int, int, int], parts: dict[str, Any]) -> Path:
    with torch.no_grad():  # fresh gates and output layers are near zero and would hide what a block does
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    vae = AutoencoderKLHunyuanVideo(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
                                    norm_num_groups=4)  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe: Any = kind(transformer=network, vae=vae, scheduler=scheduler, **parts)
    pipe.save_pretrained(folder)
    # the published folder names another class, which transformers 5 does not read its tokenizer.json with
    for path, entries in (("model_index.json", {"tokenizer": ["transformers", "LlamaTokenizerFast"]}),
                          ("tokenizer/tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"})):  # fmt: skip
        (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | entries))
    (folder / "flc.json").write_text(json.dumps({"size": size, "fps": 8}))
    return folder
