"""What an epsilon or v model is asked in training, and what its few-step scheduler is called with."""

from typing import Any

import torch

from .events import before


def note_passes() -> None:
    """Note the times and prompts of each training pass, and each sampling step."""
    before("simpletuner.helpers.models.sdxl.model", "SDXL._model_predict_single", training_pass)
    scheduler = "simpletuner_twinflow.sampling.diffusion_scheduler"
    before(scheduler, "TwinFlowDiffusionScheduler.step", sampling_step)


def training_pass(model: Any, args: tuple, kwargs: dict) -> dict:
    """A pass of the network in training."""
    batch = args[0] if args else kwargs["prepared_batch"]
    keys = {"time": "timesteps", "t": "twinflow_flow_time", "r": "twinflow_target_time", "sign": "twinflow_sign"}
    found = {name: batch[key].tolist() for name, key in keys.items()} if "twinflow_flow_time" in batch else {}
    return {
        "kind": "training_pass",
        "with_grad": torch.is_grad_enabled(),
        **found,
        "prompts": batch["encoder_hidden_states"].double().sum(dim=(1, 2)).tolist(),
        "pooled": [float(row.double().sum()) for row in batch["added_cond_kwargs"].get("text_embeds", ())],
    }


def sampling_step(scheduler: Any, args: tuple, kwargs: dict) -> dict:
    """A step of the scheduler."""
    _, time, sample = args[:3]
    return {
        "kind": "sampling_step",
        "time": float(time),
        "prediction_type": scheduler.path.prediction_type,
        "size": float(sample.float().std()),
    }
