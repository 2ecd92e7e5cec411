"""Train the autoencoder of `tiny-wan` from nothing on the drawn clips.

    torchrun --nproc-per-node 2 examples/train_tiny_vae.py --out RUN     (or plain python: one process)

A stock `AutoencoderKLWan` in the shape of Wan 2.2's (residual, patch 2): 4x in time, 8x in space, 16
channels, a decoder half as wide again as the encoder. Squared and absolute pixel error and the error of
neighbouring pixels' differences (edges), weighted towards the shape (a plain mean, and L1 most of all, is
content with the empty background: tried), and a small KL term that keeps the latents smooth enough for the
transformer. The first half of the steps sees 5 frames, in bfloat16, the second half whole clips: features of
the causal cache reach far back, and an autoencoder trained on 9 frames only drifted after the ninth.
Then the latents' mean and standard deviation are measured and written into the config, where pipelines read
them, and the decoder goes on alone, on latents with a little noise: those that a transformer makes are off by
about that much, and a decoder that never saw such ones turns it into halos. The surroundings of an edge weigh
as much as the shape then. Every process draws clips of its own; gradients are averaged.
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
LATENT_NOISE = 0.15  # standard deviations
AROUND = 3  # pixels, as far as a halo reaches
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


def weights(x: torch.Tensor, around: int = 0) -> torch.Tensor:
    """Higher where a clip differs from its background (the corner pixel's colour), and `around` pixels beside."""
    shape = ((x - x[..., :1, :1]).abs().amax(1) > 0.4).float()  # more than a texture
    if around:
        shape = torch.nn.functional.max_pool2d(shape, 2 * around + 1, stride=1, padding=around)
    return 1 + (FOREGROUND_WEIGHT - 1) * shape[:, None]


def errors(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> dict[str, torch.Tensor]:
    error = x - y.float()
    return {
        "l2": (w * error.pow(2)).mean(),
        "l1": (w * error.abs()).mean(),
        "edges": (w[..., 1:] * error.diff(dim=-1).abs()).mean() + (w[..., 1:, :] * error.diff(dim=-2).abs()).mean(),
    }


def losses(vae: AutoencoderKLWan, x: torch.Tensor, half: bool) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
    return errors(x, y, weights(x)) | {"kl": kl}


def decoder_losses(vae: AutoencoderKLWan, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of clips decoded from their latents with noise of up to `LATENT_NOISE` standard deviations."""
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
    std = torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    noise = torch.randn_like(z) * std * LATENT_NOISE * torch.rand(len(z), 1, 1, 1, 1)
    return errors(x, vae.decode(z + noise).sample, weights(x, AROUND))


def optimizers(
    vae: AutoencoderKLWan, parameters: list[torch.nn.Parameter], lr: float, muon_lr: float
) -> tuple[list[torch.optim.Optimizer], list]:
    """Muon for convolutions, each as a matrix (out, in x kernel) that shares its memory; Adam for the rest."""
    ends = (vae.encoder.conv_in.weight, vae.decoder.conv_out.weight)  # pixels come and go here: no hidden layer
    inside = [p for p in parameters if p.ndim >= 4 and p.shape[0] > 1 and all(p is not e for e in ends)]
    pairs = [(p, torch.nn.Parameter(p.data.view(p.shape[0], -1))) for p in inside]
    chosen = {id(p) for p in inside}
    rest = [p for p in parameters if id(p) not in chosen]
    opts: list[torch.optim.Optimizer] = [
        torch.optim.Muon([m for _, m in pairs], lr=muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.Adam(rest, lr=lr, betas=(0.9, 0.99)),
    ]
    for optimizer in opts:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return opts, pairs


def train(args: argparse.Namespace, rank: int, world: int) -> AutoencoderKLWan:
    """Both halves, then the decoder alone. Resumes from its last save with fresh moments and fresh clips."""
    torch.manual_seed(args.seed)
    vae, start, partial = build(), 0, args.out / "vae-partial"
    if (partial / "step.txt").exists():
        vae = AutoencoderKLWan.from_pretrained(partial)
        start = int((partial / "step.txt").read_text())
    for begin, end, lr, muon_lr, phase in (
        (0, args.steps, args.lr, args.muon_lr, "whole"),
        (args.steps, args.steps + args.decoder_steps, args.lr / 4, args.muon_lr / 4, "decoder"),
    ):
        if phase == "decoder" and start <= begin:
            statistics(vae, np.random.default_rng(10_000))
        if start < end:
            trained = [vae.decoder, vae.post_quant_conv] if phase == "decoder" else [vae]
            parameters = [p for module in trained for p in module.parameters()]
            opts = optimizers(vae, parameters, lr, muon_lr)
            run(args, vae, parameters, opts, max(start, begin), begin, end, rank, world)
    return vae


def run(
    args: argparse.Namespace, vae: AutoencoderKLWan, parameters: list, opts: tuple, start: int, begin: int, end: int,
    rank: int, world: int,
) -> None:  # fmt: skip
    """The steps from `start` to `end` of a phase that begins at `begin`; the rate falls along a cosine."""
    rng = np.random.default_rng([args.seed, start, rank])
    torch.manual_seed(args.seed * 1000 + start * world + rank)  # posterior samples, noise
    began = time.time()
    for step in range(start, end):
        progress = (step - begin) / (end - begin)
        scale = min(1.0, (step - start + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for optimizer in opts[0]:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
        short = step < args.steps // 2
        x = clips(rng, *(SHORT if short else WHOLE))
        parts = losses(vae, x, half=short) if step < args.steps else decoder_losses(vae, x)
        loss = parts["l2"] + 0.1 * (parts["l1"] + parts["edges"]) + KL_WEIGHT * parts.get("kl", 0)
        for p in parameters:
            p.grad = None
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for p, matrix in opts[1]:
            matrix.grad = p.grad.view_as(matrix)
        for optimizer in opts[0]:
            optimizer.step()
        if rank == 0 and step % 50 == 0:
            shown = " ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items())
            print(f"{step} {shown} {time.time() - began:.0f} s", flush=True)
        if rank == 0 and (step % 300 == 299 or step + 1 == end):
            vae.save_pretrained(args.out / "vae-partial")
            (args.out / "vae-partial" / "step.txt").write_text(str(step + 1))


def average_gradients(parameters: list[torch.nn.Parameter], world: int) -> None:
    if world == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, part in zip(parameters, flat.div_(world).split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(part.view_as(p))


def statistics(vae: AutoencoderKLWan, rng: np.random.Generator) -> None:
    """The latents' mean and standard deviation, into the config."""
    x = torch.cat([clips(rng, 8, 17) for _ in range(12)])
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(8)])
    vae.register_to_config(latents_mean=z.mean(dim=(0, 2, 3, 4)).tolist(), latents_std=z.std(dim=(0, 2, 3, 4)).tolist())


def measure(vae: AutoencoderKLWan, rng: np.random.Generator) -> dict[str, float]:
    """Whole-clip reconstruction error on fresh clips."""
    x = torch.cat([clips(rng, 8, 17) for _ in range(12)])
    with torch.no_grad():
        y = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in x.split(8)])
    mse = float(((x - y) / 2).pow(2).mean())
    return {"psnr": -10 * math.log10(mse), "l1": float((x - y).abs().mean() / 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--decoder-steps", type=int, default=900)
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
