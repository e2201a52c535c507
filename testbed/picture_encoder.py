"""A tiny picture encoder where torch's hub looks for DINOv2, which SimpleTuner's CREPA compares hidden states with."""

from pathlib import Path

ENCODER = """
import torch


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 12, 14, stride=14)
        for parameter in self.parameters():
            parameter.data.normal_(std=0.1, generator=generator)

    def forward_features(self, x):
        return {"x_norm_patchtokens": self.patches(x).flatten(2).transpose(1, 2)}


def dinov2_vits14(**options):
    return Encoder()


dinov2_vitb14 = dinov2_vitl14 = dinov2_vitg14 = dinov2_vits14
"""


def put_encoder(home: Path) -> Path:
    """Write it into a folder for the variable TORCH_HOME. Returns: the folder."""
    hub = home / "hub/facebookresearch_dinov2_main"
    hub.mkdir(parents=True, exist_ok=True)
    hub.joinpath("hubconf.py").write_text(ENCODER, encoding="utf-8")
    return home
