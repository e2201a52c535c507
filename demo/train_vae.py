"""Trains the demo's auto-encoder on the digits and measures the scale and shift of its latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import trange

KL_WEIGHT = 5e-3


def train_vae(vae: AutoencoderKL, images: torch.Tensor, steps: int, batch: int = 32, rate: float = 3e-3) -> None:
    """Reconstruction (half L1, half squared error) plus a mild KL term; Adam, cosine decay.

    Args:
        vae: Trained in place; `scaling_factor` and `shift_factor` of its configuration are set at the end.
        images: Shape (N, 3, H, W), in [-1, 1].
        steps: Training steps.
        batch: Images a step.
        rate: Highest learning rate.
    """
    optimizer = torch.optim.Adam(vae.parameters(), rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    vae.train()
    progress = trange(steps, desc="auto-encoder", mininterval=5)
    for _ in progress:
        real = images[torch.randint(len(images), (batch,))]
        posterior = vae.encode(real).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = 0.5 * F.l1_loss(decoded, real) + 0.5 * F.mse_loss(decoded, real)
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        optimizer.zero_grad()
        (error + KL_WEIGHT * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(error=f"{error.item():.4f}", kl=f"{divergence.item():.2f}", refresh=False)
    vae.eval()
    raw = encode(vae, images, scaled=False)
    vae.register_to_config(scaling_factor=1 / raw.std().item(), shift_factor=raw.mean().item())


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor, scaled: bool = True, batch: int = 256) -> torch.Tensor:
    """Samples latents as the host caches them, shape (N, 16, H / 8, W / 8)."""
    latents = torch.cat([vae.encode(part).latent_dist.sample() for part in images.split(batch)])
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor if scaled else latents


def _warm_cosine(step: int, steps: int, warm: int = 50) -> float:
    """Share of the highest learning rate: linear over `warm` steps, then half a cosine down to a hundredth."""
    return min((step + 1) / warm, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))
