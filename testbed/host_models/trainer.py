"""The host's trainer around a tiny model, as far as a training step, a checkpoint and the export need it."""

from typing import Any

import torch
from simpletuner.helpers.training.save_hooks import SaveHookManager
from simpletuner.helpers.training.trainer import Trainer

LEARNING_RATE = 0.01


def host_trainer(model: Any) -> Trainer:
    """A trainer whose model, adapter, EMA, optimizer and distiller were made by its own methods, in the host's order.

    What it does not have are data, trackers and validation. The plugin's hooks are on its methods, as in every process
    that has imported the host.

    Args:
        model: of `flow.host_model`.
    """
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.model, trainer.accelerator = model.config, model, model.accelerator
    trainer.webhook_handler, trainer.distiller, trainer._tlora_active = None, None, False
    trainer._tlora_config = None
    trainer.noise_scheduler, trainer.state, trainer.job_id = None, {"global_step": 0}, None
    if model.config.model_type == "lora":
        model.model.requires_grad_(False)
    trainer.init_distillation_adapter_modules()
    trainer.init_trainable_peft_adapter()
    trainer.optimizer = torch.optim.AdamW(trainer._get_trainable_parameters(), LEARNING_RATE)
    trainer.init_ema_model()
    trainer.init_distillation()
    return trainer


def save_hooks(trainer: Trainer) -> SaveHookManager:
    """What the host saves and loads the trainer's checkpoints with."""
    trainer.accelerator.prepare(trainer.optimizer)
    return SaveHookManager(
        args=trainer.config,
        model=trainer.model,
        ema_model=trainer.ema_model,
        accelerator=trainer.accelerator,
        use_deepspeed_optimizer=False,
    )


def training_step(trainer: Trainer, batch: dict[str, Any], step: int) -> torch.Tensor:
    """One optimizer step on a host batch. Args: step: counted from 0. Returns: the loss."""
    trainer.state["global_step"] = step
    prepared = trainer.distiller.prepare_batch(batch, trainer.model, trainer.state)
    loss, *_ = trainer._compute_model_prediction_loss(prepared)
    trainer.optimizer.zero_grad()
    loss.backward()
    trainer.optimizer.step()
    if trainer.ema_model is not None:
        trainer.ema_model.step(parameters=trainer._get_trainable_parameters(), global_step=step)
    return loss.detach()
