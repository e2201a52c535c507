"""The ways that are compared, and the tiny SD3 of 31 million parameters that they train."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from benchmarks.in_host import host_server
from simpletuner_twinflow.method.cost import passes, step_ratio
from simpletuner_twinflow.options import TwinFlowOptions
from testbed.digits import write_digits
from testbed.forkserver import ForkServer
from testbed.trainer import ROOT

PLAIN = "plain"
ADVERSARIAL = "host's own, adversarial"
NETWORK = {"num_layers": 6, "num_attention_heads": 6, "attention_head_dim": 64, "patch_size": 2, "qk_norm": "rms_norm"}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"model_type": "full", "learning_rate": 1e-4},
    "LoRA": {"model_type": "lora", "lora_type": "standard", "lora_rank": 16, "learning_rate": 1e-4},
}
BRANCH = {"twinflow_adversarial_enabled": True}
NO_GUIDANCE = {"twinflow_enhanced_ratio": 0.0}
TWO_STEPS = {"twinflow_target_step_count": 2}
HOST = {"twinflow_implementation": "host"}
WAYS: dict[str, dict[str, Any] | None] = {  # None: without TwinFlow
    PLAIN: None,
    "K = 1, no guidance": NO_GUIDANCE,
    "K = 1, guidance 2 (default)": {},
    "K = 2, no guidance": TWO_STEPS | NO_GUIDANCE,
    "K = 2, guidance 2": TWO_STEPS,
    "adversarial, no guidance": BRANCH | NO_GUIDANCE,
    "adversarial, guidance 2": BRANCH,
    "host's own": HOST,
    ADVERSARIAL: HOST | BRANCH,
}


def prepared(folder: Path) -> ForkServer:
    """A new folder with the pipeline and the digits, and the server of its runs."""
    shutil.rmtree(folder, ignore_errors=True)
    write_pipeline(folder / "pipeline")
    write_digits(folder / "digits", limit=64)
    return host_server(folder)


def foretold(way: dict[str, Any] | None, model_type: str) -> str:
    """What the count of passes says of a way's step, in plain steps; "" of what is not ours."""
    if way is None or "twinflow_implementation" in way:
        return ""
    options, _ = TwinFlowOptions.read({"twinflow_guidance_reference": "base"} | way)
    return f"{step_ratio(passes(options), model_type):.2f}"


def write_pipeline(folder: Path) -> None:
    """The demo's pipeline with a larger network, its weights random."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")
    settings = {key: value for key, value in pipeline.transformer.config.items() if not key.startswith("_")}
    width = NETWORK["num_attention_heads"] * NETWORK["attention_head_dim"]
    torch.manual_seed(0)
    network = SD3Transformer2DModel(**settings | NETWORK | {"caption_projection_dim": width})
    with torch.no_grad():  # the last layer is zero at first, and a network that answers zero has no gradient
        for parameter in network.proj_out.parameters():
            parameter.normal_(std=0.02)
    pipeline.register_modules(transformer=network)
    pipeline.save_pretrained(folder)
