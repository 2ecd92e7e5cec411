"""Train the autoencoder of `tiny-wan` from nothing on the drawn clips.

    torchrun --nproc-per-node 2 examples/train_tiny_vae.py --out RUN     (or plain python: one process)

A stock `AutoencoderKLWan` in the shape of Wan 2.2's (residual, patch 2): 4x in time, 8x in space, 16
channels, a decoder half as wide again as the encoder. Squared and absolute pixel error and the error of
neighbouring pixels' differences (edges), weighted towards the shape (a plain mean, and L1 most of all, is
content with the empty background: tried), and a small KL term that keeps the latents smooth enough for the
transformer. The first half of the steps sees 5 frames, in bfloat16, the second half whole clips: features of
the causal cache reach far back, and an autoencoder trained on 9 frames only drifted after the ninth.
Afterwards the latents' mean and standard deviation are measured and written into the config, where pipelines
read them. Every process draws clips of its own; gradients are averaged.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan

from flc.data.shapes import draw, sample_spec

Z = 16
KL_WEIGHT = 1e-5  # per latent element; the pixel terms end near .005
FOREGROUND_WEIGHT = 7.0  # a shape covers about a seventh of the frame
SHORT, WHOLE = (8, 5), (3, 17)  # clips a step and process, frames


def build() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=16, decoder_base_dim=24, z_dim=Z, num_res_blocks=1, dim_mult=[1, 2, 2],
        temperal_downsample=[True, True], latents_mean=[0.0] * Z, latents_std=[1.0] * Z, is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=8, scale_factor_temporal=4,
    )  # fmt: skip


def clips(rng: np.random.Generator, count: int, frames: int) -> torch.Tensor:
    """(count, 3, frames, 48, 48) in [-1, 1], a random window of whole 17-frame clips."""
    out = []
    for _ in range(count):
        begin = rng.integers(0, 17 - frames + 1)
        out.append(draw(sample_spec(rng))[begin : begin + frames])
    return torch.from_numpy(np.stack(out)).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def weights(x: torch.Tensor) -> torch.Tensor:
    """Higher where a clip differs from its background (the corner pixel's colour)."""
    return 1 + (FOREGROUND_WEIGHT - 1) * ((x - x[..., :1, :1]).abs().amax(1, keepdim=True) > 0.05)


def losses(vae: AutoencoderKLWan, x: torch.Tensor, half: bool) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    w, error = weights(x), x - y.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return {
        "l2": (w * error.pow(2)).mean(),
        "l1": (w * error.abs()).mean(),
        "edges": (w[..., 1:] * error.diff(dim=-1).abs()).mean() + (w[..., 1:, :] * error.diff(dim=-2).abs()).mean(),
        "kl": 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean(),
    }


def optimizers(vae: AutoencoderKLWan, lr: float, muon_lr: float) -> tuple[list[torch.optim.Optimizer], list]:
    """Muon for convolutions, each as a matrix (out, in x kernel) that shares its memory; Adam for the rest."""
    ends = (vae.encoder.conv_in.weight, vae.decoder.conv_out.weight)  # pixels come and go here: no hidden layer
    inside = [p for p in vae.parameters() if p.ndim >= 4 and p.shape[0] > 1 and all(p is not e for e in ends)]
    pairs = [(p, torch.nn.Parameter(p.data.view(p.shape[0], -1))) for p in inside]
    chosen = {id(p) for p in inside}
    rest = [p for p in vae.parameters() if id(p) not in chosen]
    opts: list[torch.optim.Optimizer] = [
        torch.optim.Muon([m for _, m in pairs], lr=muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.Adam(rest, lr=lr, betas=(0.9, 0.99)),
    ]
    for optimizer in opts:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return opts, pairs


def train(args: argparse.Namespace, rank: int, world: int) -> AutoencoderKLWan:
    """Resumes from its last save with fresh moments and fresh clips."""
    torch.manual_seed(args.seed)
    vae, start, partial = build(), 0, args.out / "vae-partial"
    if (partial / "step.txt").exists():
        vae = AutoencoderKLWan.from_pretrained(partial)
        start = int((partial / "step.txt").read_text())
    opts, pairs = optimizers(vae, args.lr, args.muon_lr)
    parameters = list(vae.parameters())
    rng = np.random.default_rng([args.seed, start, rank])
    torch.manual_seed(args.seed * 1000 + start * world + rank)  # posterior samples
    began = time.time()
    for step in range(start, args.steps):
        scale = min(1.0, (step - start + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for optimizer in opts:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
        short = step < args.steps // 2
        parts = losses(vae, clips(rng, *(SHORT if short else WHOLE)), half=short)
        loss = parts["l2"] + 0.1 * (parts["l1"] + parts["edges"]) + KL_WEIGHT * parts["kl"]
        for p in parameters:
            p.grad = None
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for p, matrix in pairs:
            matrix.grad = p.grad.view_as(matrix)
        for optimizer in opts:
            optimizer.step()
        if rank == 0 and step % 50 == 0:
            shown = " ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items())
            print(f"{step} {shown} {time.time() - began:.0f} s", flush=True)
        if rank == 0 and step % 300 == 299:
            vae.save_pretrained(partial)
            (partial / "step.txt").write_text(str(step + 1))
    return vae


def average_gradients(parameters: list[torch.nn.Parameter], world: int) -> None:
    if world == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, part in zip(parameters, flat.div_(world).split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(part.view_as(p))


def measure(vae: AutoencoderKLWan, rng: np.random.Generator) -> dict[str, float]:
    """Whole-clip reconstruction error on fresh clips, and the latents' statistics into the config."""
    x = torch.cat([clips(rng, 8, 17) for _ in range(12)])
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(8)])
        y = torch.cat([vae.decode(part).sample for part in z.split(8)])
    mean, std = z.mean(dim=(0, 2, 3, 4)), z.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    mse = float(((x - y) / 2).pow(2).mean())
    return {"psnr": -10 * math.log10(mse), "l1": float((x - y).abs().mean() / 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    vae = train(args, rank, world)
    if rank == 0:
        print(measure(vae, np.random.default_rng(10_000)), flush=True)
        vae.save_pretrained(args.out / "vae")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
