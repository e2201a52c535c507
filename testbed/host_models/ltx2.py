"""What SimpleTuner makes of LTX-Video 2's cached text before its network is given it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from simpletuner.helpers.models.ltxvideo2.connectors import LTX2TextConnectors
from torch import Tensor

from testbed.pipelines import ltx2


def connectors() -> LTX2TextConnectors:
    """The tiny ones, in the host's class."""
    stock = ltx2.connectors()
    hosts = LTX2TextConnectors.from_config(stock.config)
    hosts.load_state_dict(stock.state_dict())
    return hosts


@torch.no_grad()
def connected(text: Mapping[str, Tensor], hosts: Any = None) -> tuple[Tensor, Tensor]:
    """What the network is given of a prompt for the video and for the sound, each (1, words, width).

    Args: text: the host's cache entry; hosts: the connectors, the tiny ones by default.
    """
    states, mask = text["prompt_embeds"].float(), text["attention_masks"].float()
    states, mask = states.reshape(1, *states.shape[-2:]), mask.reshape(1, -1)
    made = connectors() if hosts is None else hosts
    for_video, for_sound, _ = made(states, (1 - mask) * -1e6, additive_mask=True)
    return for_video, for_sound


def connected_in(text: Mapping[str, Tensor], folder: Path) -> list[list[Tensor]]:
    """The same by the connectors in this folder, as a list of the one form that each has."""
    return [[given] for given in connected(text, LTX2TextConnectors.from_pretrained(folder))]
