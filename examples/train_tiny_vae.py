"""Train the autoencoder of `tiny-wan` from nothing on the drawn clips.

    python examples/train_tiny_vae.py --out RUN

A stock `AutoencoderKLWan` in the shape of Wan 2.2's (residual, patch 2): 4x in time, 8x in space, 16
channels. Squared and absolute pixel error, weighted towards the shape (a plain mean, and L1 most of all, is
content with the empty background: tried), and a small KL term that keeps the latents smooth enough for the
transformer. The first half of the steps sees 5 frames, the second half whole clips: features of the causal
cache reach far back, and an autoencoder trained on 9 frames only drifted after the ninth. Afterwards the
latents' mean and standard deviation are measured and written into the config, where pipelines read them.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from flc.data.shapes import draw, sample_spec

Z = 16
KL_WEIGHT = 1e-5  # per latent element; the pixel terms end near .005
FOREGROUND_WEIGHT = 7.0  # a shape covers about a seventh of the frame


def build() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=16, z_dim=Z, num_res_blocks=1, dim_mult=[1, 2, 2], temperal_downsample=[True, True],
        latents_mean=[0.0] * Z, latents_std=[1.0] * Z, is_residual=True, patch_size=2,
        in_channels=12, out_channels=12, scale_factor_spatial=8, scale_factor_temporal=4,
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


def measure(vae: AutoencoderKLWan, rng: np.random.Generator) -> dict[str, float]:
    """Whole-clip reconstruction error on fresh clips, and the latents' statistics into the config."""
    x = torch.cat([clips(rng, 8, 17) for _ in range(8)])
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(8)])
        y = torch.cat([vae.decode(part).sample for part in z.split(8)])
    mean, std = z.mean(dim=(0, 2, 3, 4)), z.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    mse = float(((x - y) / 2).pow(2).mean())
    return {"psnr": -10 * math.log10(mse), "l1": float((x - y).abs().mean() / 2)}


def sharpen(vae: AutoencoderKLWan, steps: int, lr: float, seed: int, folder: Path) -> None:
    """The decoder alone, on whole clips: absolute error of pixels and of their differences (edges).

    The encoder stays, so latents and what was trained on them stay valid.
    """
    rng = np.random.default_rng(seed)
    x = torch.cat([clips(rng, 8, 17) for _ in range(96)])
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(8)])
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    vae.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    optimizer, start, began = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99)), 0, time.time()
    if (folder / "step.txt").exists():
        start = int((folder / "step.txt").read_text())
        vae.load_state_dict(AutoencoderKLWan.from_pretrained(folder).state_dict())
    for step in range(start, steps):
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = lr * min(1.0, (step - start + 1) / 50) * (0.02 + 0.98 * cosine)
        pick = torch.from_numpy(rng.integers(0, len(x), 2))
        y, target = vae.decode(z[pick] + 0.05 * torch.randn_like(z[pick])).sample, x[pick]
        w = weights(target)
        absolute = (w * (target - y).abs()).mean()
        edges = sum((w[..., a:, b:] * (target - y).diff(dim=d).abs()).mean() for d, a, b in ((-1, 0, 1), (-2, 1, 0)))
        loss = absolute + edges + (w * (target - y).pow(2)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"decoder {step} l1 {absolute:.4f} edges {edges:.4f} {time.time() - began:.0f} s", flush=True)
        if step % 200 == 199:
            vae.save_pretrained(folder)
            (folder / "step.txt").write_text(str(step + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--decoder-steps", type=int, default=1600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "vae-first" / "config.json").exists():
        vae = AutoencoderKLWan.from_pretrained(args.out / "vae-first")
    else:
        vae = train(args)
        print(measure(vae, np.random.default_rng(10_000)), flush=True)
        vae.save_pretrained(args.out / "vae-first")
    sharpen(vae, args.decoder_steps, args.lr / 2, args.seed + 1, args.out / "vae-decoder-partial")
    print(measure(vae, np.random.default_rng(10_000)), flush=True)
    vae.save_pretrained(args.out / "vae")


def train(args: argparse.Namespace) -> AutoencoderKLWan:
    """Encoder and decoder together; resumes from its last save with fresh moments."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    vae, start, partial = build(), 0, args.out / "vae-partial"
    if (partial / "step.txt").exists():  # cut off: go on with fresh moments
        vae = AutoencoderKLWan.from_pretrained(partial)
        start = int((partial / "step.txt").read_text())
    optimizer = torch.optim.Adam(vae.parameters(), lr=args.lr, betas=(0.9, 0.99))
    began = time.time()
    for step in range(start, args.steps):
        for group in optimizer.param_groups:  # short warm-up, then cosine to 2 %
            cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
            group["lr"] = args.lr * min(1.0, (step - start + 1) / 50) * (0.02 + 0.98 * cosine)
        x = clips(rng, 8, 5) if step < args.steps // 2 else clips(rng, 2, 17)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        w = weights(x)
        squared, absolute = (w * (x - y).pow(2)).mean(), (w * (x - y).abs()).mean()
        mean, logvar = posterior.mean, posterior.logvar
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        loss = squared + 0.1 * absolute + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"{step} l2 {squared:.4f} l1 {absolute:.4f} kl {kl:.3f} {time.time() - began:.0f} s", flush=True)
        if step % 400 == 399:
            vae.save_pretrained(partial)
            (partial / "step.txt").write_text(str(step + 1))
    return vae


if __name__ == "__main__":
    main()
