"""Each term as `twinflow/<name>` on every tracker, and the experimental trajectory chart on W&B."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.chart_schedule import ChartSchedule
from simpletuner_twinflow.host.loss import distiller_of
from simpletuner_twinflow.host.seams import Seam, uses, wrap

STEP_MARK = "train_loss"  # stands in the values the host logs once per optimizer step, and in no others


@uses(Seam("Trainer.init_trackers", ("self",)))
def attach_to_trackers(module: ModuleType) -> None:
    """Add TwinFlow's values to what the host logs per optimizer step."""

    def init_trackers(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        already = getattr(trainer, "_trackers_initialized", False)
        wrapped(*args, **kwargs)
        distiller = distiller_of(trainer)
        if distiller is None or already:
            return
        charts = ChartSchedule(distiller.options.trajectory_interval, max_steps=int(trainer.config.max_train_steps))
        log = trainer.accelerator.log

        def log_with_terms(values: dict, step: int | None = None, **log_kwargs: Any) -> None:
            if STEP_MARK in values and trainer.accelerator.log_with:
                values = values | step_values(trainer, distiller, charts, int(step))
            log(values, step=step, **log_kwargs)

        trainer.accelerator.log = log_with_terms

    wrap(module, "Trainer.init_trackers", init_trackers)


def step_values(trainer: Any, distiller: Any, charts: ChartSchedule, step: int) -> dict[str, Any]:
    """What TwinFlow logs for one optimizer step."""
    values = {f"twinflow/{name}": mean for name, mean in distiller.meter.means(trainer.accelerator).items()}
    if trainer.accelerator.is_main_process and wandb_is_used(trainer) and charts.is_due(step):
        from simpletuner_twinflow.wandb_logger import trajectory_chart

        values |= trajectory_chart(distiller.meter.rows(), step=step)
    return values


def wandb_is_used(trainer: Any) -> bool:
    """Whether one of the run's trackers is W&B."""
    return any(tracker.name == "wandb" for tracker in trainer.accelerator.trackers)
