"""Trains a tiny auto-encoder and sets the scale of its latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import trange

LOG_VARIANCE = -8.0  # of the posterior: samples are nearly the mean
CODE_NOISE = 0.1  # what the decoder learns to put up with


def train_vae(vae: AutoencoderKL, images: Tensor, codes: Tensor, steps: int, batch: int, rate: float = 3e-3) -> None:
    """Reconstruction, with a code that a small network can learn to generate in minutes.

    The latents are taught to be a given small picture, and the decoder to draw the large one from it.

    Args:
        vae: Trained in place; `scaling_factor` and `shift_factor` of its configuration are set at the end.
        images: Shape (N, 3, H, W), in [-1, 1].
        codes: The small pictures, shape (N, C, H / 8, W / 8), in [-1, 1].
        steps: Training steps.
        batch: Images a step.
        rate: Highest learning rate.
    """
    optimizer = torch.optim.Adam(vae.parameters(), rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    vae.train()
    progress = trange(steps, desc="auto-encoder", mininterval=5)
    for _ in progress:
        rows = torch.randint(len(images), (batch,))
        real, code = images[rows], codes[rows]
        posterior = vae.encode(real).latent_dist
        code_error = F.mse_loss(posterior.mean, code)
        decoded = vae.decode(code + CODE_NOISE * torch.randn_like(code)).sample
        error = 0.5 * F.l1_loss(decoded, real) + 0.5 * F.mse_loss(decoded, real)
        spread = (posterior.logvar - LOG_VARIANCE).square().mean()
        optimizer.zero_grad()
        (error + code_error + 1e-3 * spread).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(error=f"{error.item():.4f}", code=f"{code_error.item():.4f}", refresh=False)
    vae.eval()
    scale = encode(vae, images, scaled=False).std().item()
    vae.register_to_config(scaling_factor=1 / scale, shift_factor=0.0)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, scaled: bool = True, batch: int = 256) -> Tensor:
    """Samples latents as the host caches them, shape (N, C, H / 8, W / 8)."""
    latents = torch.cat([vae.encode(part).latent_dist.sample() for part in images.split(batch)])
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor if scaled else latents


def _warm_cosine(step: int, steps: int, warm: int = 50) -> float:
    """Share of the highest learning rate: linear over `warm` steps, then half a cosine down to a hundredth."""
    return min((step + 1) / warm, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))
