"""Loads a configuration through the host's real parser."""

import json
from pathlib import Path
from typing import Any

from simpletuner.helpers.configuration import loader

SAMPLES = Path(__file__).parents[3] / "sample_configs"
SEED = json.loads((SAMPLES / "sd3-twinflow.json").read_text(encoding="utf-8"))
DIFF2FLOW = json.loads((SAMPLES / "sdxl-diff2flow-twinflow.json").read_text(encoding="utf-8"))
REQUIRED_BY_HOST = {
    "data_backend_config": "none.json",
    "optimizer": "adamw_bf16",
    "max_train_steps": 10,
    "num_train_epochs": 0,
}
# What the web UI asks of a configuration before it lets it run.
RUNNABLE = SEED | {
    "optimizer": "adamw_bf16",
    "max_train_steps": 10,
    "num_train_epochs": 0,
    "tracker_project_name": "twinflow",
    "lora_rank": 4,
    "data_backend_config": "data.json",
}


def load(config: dict[str, Any], **changes: Any) -> Any:
    """The parsed configuration. Raises: TwinFlowConfigError: It is refused."""
    return loader.load_config(config | REQUIRED_BY_HOST | changes)
