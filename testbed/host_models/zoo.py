"""Every model family that TwinFlow trains as a flow, at tiny size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from testbed.host_models.mmdit import MMDIT
from testbed.host_models.pictures import PICTURES
from testbed.host_models.songs import SONGS
from testbed.host_models.tiny import Tiny
from testbed.host_models.videos import VIDEOS

PLAIN = PICTURES | MMDIT | VIDEOS | SONGS


def edited(name: str, flavour: str | None, conditions: Callable[[int], dict[str, Any]], **changes: Any) -> Tiny:
    """A family of the zoo with a reference image in each sample; its pipeline would need the image, not its latents."""
    tiny = PLAIN[name]
    return replace(tiny, flavour=flavour, conditions=conditions, draws=False, **changes)


ZOO = PLAIN | {
    "flux3_image klein": replace(
        PLAIN["flux3_image"],
        flavour="klein",
        config={"disable_assistant_lora": True},
        network=PLAIN["flux3_image"].network | {"flow_map": True},
        signed_time=False,
        untimed=False,
        own_target_time="target_timestep",
    ),
    "flux kontext": edited(
        "flux",
        "kontext",
        lambda rows: {"conditioning_latents": [torch.full((rows, 16, 8, 8), 0.3)]},
        network=PLAIN["flux"].network | {"in_channels": 64},
        latents=(16, 8, 8),
    ),
    "longcat_image edit": edited(
        "longcat_image", "edit", lambda rows: {"conditioning_latents": torch.full((rows, 16, 8, 8), 0.3)}
    ),
    # LTX-Video 2.3 and 2.5: their prompts are modulated by the time, too.
    "ltxvideo2 2.3": replace(
        PLAIN["ltxvideo2"],
        network=PLAIN["ltxvideo2"].network
        | dict.fromkeys(("gated_attn", "cross_attn_mod", "audio_gated_attn", "audio_cross_attn_mod"), True),
        config=PLAIN["ltxvideo2"].config | {"pretrained_vae_model_name_or_path": "networks/ltxvideo2 2.3"},
    ),
    "ltxvideo2 reference": edited(
        "ltxvideo2",
        None,
        lambda rows: {
            "conditioning_latents": torch.full((rows, 128, 1, 2, 2), 0.3),
            "conditioning_type": "reference_strict",
        },
        config=PLAIN["ltxvideo2"].config | {"pretrained_vae_model_name_or_path": "networks/ltxvideo2 reference"},
        clean_first=True,
    ),
    "kandinsky5_video i2v": edited(
        "kandinsky5_video",
        None,
        lambda rows: {"conditioning_latents": torch.full((rows, 4, 1, 8, 8), 0.3), "is_i2v_data": True},
    ),
}


def family_of(name: str) -> str:
    """The family of an entry of the zoo; a second word is a flavour."""
    return name.split()[0]
