"""Checkpoints of a TwinFlow run: the target-time module is saved and resumed with the network, in its EMA too."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap


@uses(Seam("Trainer.init_ema_model", ("self",)))
def attach_to_ema(module: ModuleType) -> None:
    """Let the host save a full model's EMA with the module that TwinFlow adds to the network."""

    def init_ema_model(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if active_options(trainer.config) is not None and trainer.ema_model is not None:
            from simpletuner_twinflow.host.adapter import ConditionedClass

            trainer.ema_model.model_cls = ConditionedClass(trainer.ema_model.model_cls, trainer.twinflow_adapter.family)

    wrap(module, "Trainer.init_ema_model", init_ema_model)
