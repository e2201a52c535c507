"""Few-step validation: our scheduler for student and EMA, the ordinary sampler for the base-model benchmark."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap

HOSTS_OWN = "HostTwinFlowScheduler"


@uses(Seam("TwinFlowScheduler"))
def offer_scheduler(module: ModuleType) -> None:
    """Make the documented import path give the scheduler that works; the host's own stays within reach."""
    from simpletuner_twinflow.scheduler import TwinFlowScheduler

    setattr(module, HOSTS_OWN, module.TwinFlowScheduler)
    module.TwinFlowScheduler = TwinFlowScheduler


@uses(
    Seam("TwinFlowScheduler"),
    Seam("Validation.setup_scheduler", ("validation_type",)),
    Seam("Validation.run_validations", ("validation_type",)),
    Seam("Evaluation.execute_eval", ("prepare_batch",)),
)
def attach_to_validation(module: ModuleType) -> None:
    """Keep the base-model benchmark and the evaluation loss what they are without TwinFlow."""
    from simpletuner.helpers.training import custom_schedule

    # Here the name stands for the host's own implementation; ours comes from the distiller.
    host_scheduler = getattr(custom_schedule, HOSTS_OWN, module.TwinFlowScheduler)
    module.TwinFlowScheduler = host_scheduler
    module.SCHEDULER_NAME_MAP["twinflow"] = host_scheduler

    def run_validations(wrapped: Callable, validation: Any, args: tuple, kwargs: dict) -> Any:
        validation_type = args[1] if len(args) > 1 else kwargs.get("validation_type")
        if validation_type != "base_model" or active_options(validation.config) is None:
            return wrapped(*args, **kwargs)
        # The host reads this flag for the scheduler, the steps and the guidance of every validation.
        validation.config.twinflow_enabled = False
        try:
            return wrapped(*args, **kwargs)
        finally:
            validation.config.twinflow_enabled = True

    def execute_eval(wrapped: Callable, evaluation: Any, args: tuple, kwargs: dict) -> Any:
        from simpletuner_twinflow.host.loss import distiller_of

        prepare_batch = args[0] if args else kwargs["prepare_batch"]
        distiller = distiller_of(getattr(prepare_batch, "__self__", None))
        if distiller is None:
            return wrapped(*args, **kwargs)
        with distiller.paused():
            return wrapped(*args, **kwargs)

    wrap(module, "Validation.run_validations", run_validations)
    wrap(module, "Evaluation.execute_eval", execute_eval)
