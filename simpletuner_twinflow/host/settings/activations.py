"""How much the pass with gradient keeps for its backward pass, by the kind of network.

Counted by `python -m testbed.activations` from what autograd saves in diffusers' networks at their published shapes,
with fused attention and without gradient checkpointing; in 16 bits under autocast, as the host trains. More than of a
plain LoRA is kept, since TwinFlow's time conditioning trains, so that gradient flows through the time embedding into
each block's scales and shifts: of SD3.5-medium 35.5 in place of 28.9, or of 31.6 with the dropout of 0.1 that the host
gives a plain LoRA. A network of its shape took 9 % less than this on a GPU (docs/gpu.md), with a quarter of its tokens
text, which keeps less.
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
    "sd3 dual": Kept((43.8, 30.6), (35.5, 22.6), 8, (77, 77)),  # SD3.5-medium: two attentions in some blocks
    "sd3": Kept((35.2, 25.1), (27.9, 18.0), 8, (77, 77)),
    "flux": Kept((30.8, 20.4), (24.9, 15.3), 16, (0, 512)),
    "qwen_image": Kept((35.1, 25.1), (28.0, 18.0), 8),
    "sana": Kept((44.1, 38.0), (43.9, 37.8), 32),
    "wan": Kept((40.9, 26.7), (37.1, 22.9), 8, frames=4),
    "pixart": Kept((31.4, 25.3), (26.3, 20.3), 8),
    "sdxl": Kept((862.9, 695.6), (751.8, 586.5), 8),
}


def kept_of(family: str, *, dual: bool = False) -> Kept | None:
    """What is known of a family; None of one that was not counted. Args: dual: whether blocks have two attentions."""
    return KEPT.get(f"{family} dual" if dual and family == "sd3" else family)
