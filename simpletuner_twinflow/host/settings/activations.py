"""How much the pass with gradient keeps for its backward pass, by the kind of network.

Counted by `python -m testbed.activations` from what autograd saves in diffusers' networks at their published shapes,
with fused attention and without gradient checkpointing. More than of a plain LoRA is kept, since TwinFlow's time
conditioning trains, so that gradient flows through the time embedding into each block's scales and shifts: of
SD3.5-large 22 in place of 18.
"""

from typing import NamedTuple


class Kept(NamedTuple):
    """Tensors of a token's width that are kept for each token and block, in elements of the run's dtype."""

    full: tuple[float, float]  # of a full fine-tune, in 16 and in 32 bits
    lora: tuple[float, float]  # of a LoRA of the attention, which TwinFlow trains without dropout
    side: int  # pixels of a picture's side for each of its latents, or of what the family packs before the network
    text: tuple[int, int] = (0, 0)  # the prompt's tokens in every block: always, and by the default of the host's key
    frames: int = 1  # of a video for each of its latents, beyond the first


KEPT = {
    "sd3 dual": Kept((36.7, 30.6), (28.6, 22.6), 8, (77, 77)),  # SD3.5-medium: two attentions in some blocks
    "sd3": Kept((29.1, 25.1), (22.0, 18.0), 8, (77, 77)),
    "flux": Kept((26.4, 22.4), (17.4, 15.3), 16, (0, 512)),
    "qwen_image": Kept((29.1, 25.1), (22.0, 18.0), 8),
    "sana": Kept((44.1, 38.0), (44.0, 37.8), 32),
    "wan": Kept((41.9, 29.7), (32.0, 22.9), 8, frames=4),
    "pixart": Kept((25.3, 25.3), (20.3, 20.3), 8),
    "sdxl": Kept((695.7, 695.6), (586.6, 586.5), 8),
}


def kept_of(family: str, *, dual: bool = False) -> Kept | None:
    """What is known of a family; None of one that was not counted. Args: dual: whether blocks have two attentions."""
    return KEPT.get(f"{family} dual" if dual and family == "sd3" else family)
