"""Train `tiny-wan`, the embedded model, from nothing on the drawn clips, and write it as a stock pipeline.

    torchrun --nproc-per-node 2 examples/train_tiny_wan.py --out RUN     (or plain python: one process)

After `train_tiny_vae.py --out RUN`: 1. latents of drawn clips, 2. transformer and text encoder together,
3. `RUN/pipeline`: a diffusers Wan folder, half-precision weights. Latents that are there are not made again,
and the transformer's training resumes from its last checkpoint. Processes share each batch.

Conditioning is Wan 2.2 TI2V's: half of the samples are given the first latent frame, clean and at t = 0;
those rows are left out of the loss. A tenth of the captions is replaced by the empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from train_tiny_vae import average_gradients
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from flc.data.shapes import COLOURS, MOTIONS, SHAPES, all_captions, draw, sample_spec
from flc.models.text_padding import BiasedCrossAttention, collapse

TEXT_ROWS = 512  # what stock pipelines pad to
SHIFT = 3.0  # of the training timesteps and of the scheduler
NULL = ""
GUIDANCE = 2.0  # standard form; 4 narrows the clips of one caption and gains no accuracy


def build_tokenizer() -> T5Tokenizer:
    """Whole words for what captions say, letters for anything else."""
    words = ["a", "moving", *COLOURS, *SHAPES, *MOTIONS]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(f"▁{word}", -1.0) for word in words if len(word) > 1] + [("▁a", -1.5)]
    vocab += [(letter, -6.0) for letter in letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def build_models(tokenizer: T5Tokenizer) -> torch.nn.ModuleDict:
    text = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=16, dropout_rate=0.0,
        )
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, in_channels=16, out_channels=16,
        text_dim=64, freq_dim=64, ffn_dim=384, num_layers=10, rope_max_seq_len=64,
    )  # fmt: skip
    return torch.nn.ModuleDict({"transformer": transformer, "text_encoder": text})


def encode_clips(vae: AutoencoderKLWan, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Normalised latents (count, 16, 5, 6, 6) and caption indices (count,) of drawn clips, captions in turn."""
    rng = np.random.default_rng(seed)
    captions = all_captions()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    index = torch.arange(count) % len(captions)
    latents = []
    for begin in range(0, count, 8):
        part = [draw(sample_spec(rng, captions[int(i)])) for i in index[begin : begin + 8]]
        x = torch.from_numpy(np.stack(part)).permute(0, 4, 1, 2, 3) * 2 - 1
        with torch.no_grad():
            latents.append((vae.encode(x).latent_dist.mode() - mean) / std)
    return {"latents": torch.cat(latents).half(), "caption": index}


def latents(args: argparse.Namespace, vae: AutoencoderKLWan, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Of `args.clips` clips in two halves with seeds of their own, so that two processes take one each."""
    paths = [args.out / f"latents-{part}.safetensors" for part in (0, 1)]
    for part in range(rank, 2, world):
        if not paths[part].exists():
            made = encode_clips(vae, args.clips // 2, 100 + part)
            save_file(made, paths[part].with_suffix(".partial"))
            paths[part].with_suffix(".partial").rename(paths[part])
    if world > 1:
        dist.barrier()
    halves = [load_file(path) for path in paths]
    return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}


class Trainee:
    """Transformer and text encoder, with the padded text folded into one row (see flc.models.text_padding)."""

    def __init__(self, models: torch.nn.ModuleDict, tokenizer: T5Tokenizer) -> None:
        self.models = models
        self.processor = BiasedCrossAttention()
        for block in models["transformer"].blocks:
            block.attn2.set_processor(self.processor)
        batch = tokenizer([*all_captions(), NULL], padding=True, return_tensors="pt")
        self.ids, self.mask = batch.input_ids, batch.attention_mask

    def text(self, index: torch.Tensor) -> torch.Tensor:
        ids, mask = self.ids[index], self.mask[index]
        hidden = self.models["text_encoder"](ids, mask).last_hidden_state
        return hidden * mask[..., None]

    def velocity(self, x: torch.Tensor, t: torch.Tensor, given: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """x (B,16,F,6,6) with given first frames clean; t (B,); given (B,) bool."""
        b, _, f, h, w = x.shape
        tokens = t[:, None, None].expand(b, f, (h // 2) * (w // 2)).clone()
        tokens[given, 0] = 0
        rows, self.processor.bias = collapse(self.text(index), TEXT_ROWS)
        return self.models["transformer"](x, tokens.flatten(1) * 1000, rows, return_dict=False)[0]

    def loss(self, x0: torch.Tensor, x1: torch.Tensor, t: torch.Tensor, given: torch.Tensor, index: torch.Tensor):
        """Flow matching, mean over what is not given. Per-sample (B,)."""
        free = torch.ones_like(x0[:, :1])
        free[given, :, 0] = 0
        s = t.view(-1, 1, 1, 1, 1)
        x = torch.where(free.bool(), (1 - s) * x0 + s * x1, x0)
        v = self.velocity(x, t, given, index)
        squared = (v - (x1 - x0)).pow(2) * free
        return squared.sum(dim=(1, 2, 3, 4)) / (free.sum(dim=(1, 2, 3, 4)) * x0.shape[1])


@torch.no_grad()
def word_gaps(trainee: Trainee, data: dict[str, torch.Tensor]) -> dict[str, float]:
    """Flow loss with one word exchanged over the loss with the right caption, minus 1, at t = .7."""
    generator, count, motions = torch.Generator().manual_seed(1), len(all_captions()), len(MOTIONS)
    x0, index = data["latents"][:count].float(), data["caption"][:count]
    x1 = torch.randn(x0.shape, generator=generator)
    t, given = torch.full((count,), 0.7), torch.arange(count) % 2 == 0
    shape, colour, motion = index // (len(COLOURS) * motions), index // motions % len(COLOURS), index % motions
    right = trainee.loss(x0, x1, t, given, index).mean()

    def caption(shape: torch.Tensor, colour: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        return (shape % len(SHAPES) * len(COLOURS) + colour % len(COLOURS)) * motions + motion % motions

    wrong = {
        "shape": caption(shape + 1, colour, motion),
        "colour": caption(shape, colour + 1, motion),
        "motion": caption(shape, colour, motion + 1),
    }
    gaps = {name: float(trainee.loss(x0, x1, t, given, i).mean() / right - 1) for name, i in wrong.items()}
    return {"loss@.7": float(right), **gaps}


def optimizers(models: torch.nn.ModuleDict, lr: float, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for everything else; Muon off at rate 0."""
    inside = [p for p in models["transformer"].blocks.parameters() if p.ndim == 2] if muon_lr else []
    chosen = {id(p) for p in inside}
    rest = [p for p in models.parameters() if id(p) not in chosen]
    out: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
    if inside:
        out.append(torch.optim.Muon(inside, lr=muon_lr, momentum=0.95, weight_decay=0.01, ns_steps=5))
    for optimizer in out:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return out


def rate(step: int, steps: int) -> float:
    """Warm-up over 100 steps, constant, then linear to zero over the last 30 %."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (0.3 * steps)))


def save(path: Path, trainee: Trainee, ema: dict, opts: list[torch.optim.Optimizer], step: int) -> None:
    flat = {f"model.{k}": v for k, v in trainee.models.state_dict().items()}
    flat |= {f"ema.{k}": v for k, v in ema.items()}
    for i, optimizer in enumerate(opts):
        for j, state in optimizer.state_dict()["state"].items():
            flat |= {f"opt.{i}.{j}.{k}": v for k, v in state.items() if torch.is_tensor(v)}
    temporary = path.with_suffix(".partial")
    save_file({k: v.detach().clone() for k, v in flat.items()}, temporary, {"step": str(step)})
    temporary.rename(path)


def load(path: Path, trainee: Trainee, ema: dict, opts: list[torch.optim.Optimizer]) -> int:
    flat = load_file(path)
    trainee.models.load_state_dict({k[6:]: v for k, v in flat.items() if k.startswith("model.")})
    ema.update({k[4:]: v for k, v in flat.items() if k.startswith("ema.")})
    for i, optimizer in enumerate(opts):
        state: dict[int, dict] = {}
        for k, v in flat.items():
            if k.startswith(f"opt.{i}."):
                _, _, j, name = k.split(".")
                state.setdefault(int(j), {})[name] = v
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(header["__metadata__"]["step"])


def draw_batch(args: argparse.Namespace, data: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, ...]:
    """(x0, x1, t, given, caption index), a function of (seed, step), so that a resumed run repeats."""
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    pick = torch.randint(len(data["caption"]), (args.batch,), generator=generator)
    x0, index = data["latents"][pick].float(), data["caption"][pick]
    x1 = torch.randn(x0.shape, generator=generator)
    u = (torch.rand(args.batch, generator=generator) + torch.arange(args.batch)) / args.batch  # stratified
    t = SHIFT * u / (1 + (SHIFT - 1) * u)
    given = torch.rand(args.batch, generator=generator) < 0.5
    index = torch.where(torch.rand(args.batch, generator=generator) < 0.1, len(all_captions()), index)
    return x0, x1, t, given, index


def train(
    args: argparse.Namespace, data: dict[str, torch.Tensor], trainee: Trainee, rank: int, world: int
) -> dict[str, torch.Tensor]:
    """The EMA weights after `args.steps`."""
    opts = optimizers(trainee.models, args.lr, args.muon_lr)
    ema = {k: v.clone() for k, v in trainee.models.state_dict().items()}
    checkpoint, step = args.out / "transformer.safetensors", 0
    if checkpoint.exists():
        step = load(checkpoint, trainee, ema, opts)
    parameters = [p for p in trainee.models.parameters() if p.requires_grad]
    began, recent = time.time(), []
    while step < args.steps:
        loss = trainee.loss(*(part[rank::world] for part in draw_batch(args, data, step))).mean()
        for optimizer in opts:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(step, args.steps)
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in opts:
            optimizer.step()
        step += 1
        decay = min(args.ema, step / (step + 10))
        for name, value in trainee.models.state_dict().items():
            ema[name].lerp_(value, 1 - decay)
        recent.append(float(loss.detach()))
        if rank == 0 and step % 100 == 0:
            gaps = word_gaps(trainee, data) if step % 500 == 0 else {}
            shown = " ".join(f"{k} {v:.4f}" for k, v in {"loss": sum(recent) / len(recent), **gaps}.items())
            print(f"{step} {shown} {time.time() - began:.0f} s", flush=True)
            recent = []
        if rank == 0 and step % 500 == 0:
            save(checkpoint, trainee, ema, opts, step)
    return ema


def export(out: Path, trainee: Trainee, ema: dict, vae: AutoencoderKLWan, tokenizer: T5Tokenizer) -> None:
    trainee.models.load_state_dict(ema)
    for model in (*trainee.models.values(), vae):
        model.half()
    WanPipeline(
        tokenizer=tokenizer, vae=vae, text_encoder=trainee.models["text_encoder"],
        transformer=trainee.models["transformer"], expand_timesteps=True,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    ).save_pretrained(out / "pipeline")  # fmt: skip
    notes = {"size": [17, 48, 48], "fps": 8, "guidance": GUIDANCE}
    (out / "pipeline" / "flc.json").write_text(json.dumps(notes) + "\n")
    for config in (out / "pipeline").glob("*/config.json"):  # no path of this machine in the package
        values = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        config.write_text(json.dumps(values, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=12_384)
    parser.add_argument("--steps", type=int, default=4_500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.out / "vae").exists():
        parser.error(f"{args.out}/vae is missing: train_tiny_vae.py --out {args.out} makes it")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    vae = AutoencoderKLWan.from_pretrained(args.out / "vae")
    data = latents(args, vae, rank, world)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    trainee = Trainee(build_models(tokenizer), tokenizer)
    ema = train(args, data, trainee, rank, world)
    if rank == 0:
        export(args.out, trainee, ema, vae, tokenizer)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
