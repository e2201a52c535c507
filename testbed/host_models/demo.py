"""The demo's base model in the host's class: a complete pipeline on disk, with a trained network and text encoders."""

from typing import Any

import torch

from testbed.host_models.build import host_config, model_of
from testbed.trainer import ROOT

BASE = ROOT / "demo/base"


def demo_model(**changes: Any) -> Any:
    """The host's SD3 with the demo's network loaded. Args: changes: to the config."""
    config = host_config("sd3", BASE, **{"model_flavour": "medium", "tokenizer_max_length": 8} | changes)
    model = model_of(config, torch.float32, flow=True)
    model.load_model()
    return model
