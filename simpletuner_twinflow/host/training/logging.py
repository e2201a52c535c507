"""Each term as `twinflow/<name>` on every tracker and in the progress line, and the trajectory chart on W&B."""

from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.seams import Seam, Touch, set_on, uses, wrap
from simpletuner_twinflow.host.training.meter import LOSSES
from simpletuner_twinflow.host.training.trainer import distiller_of

STEP_MARK = "train_loss"  # a key of what the host logs once per optimizer step, and of nothing else
MAX_CHARTS = 400  # of one run


@uses(
    Seam("Trainer.init_trackers", ("self",)),
    Seam("Trainer._trackers_initialized", touch=Touch.read),
    Seam("Accelerator.log", ("values", "step"), Touch.on_run, "accelerate.accelerator"),
    lost="neither its terms nor the trajectory chart are logged",
)
def attach_to_trackers(module: ModuleType) -> None:
    """Add TwinFlow's values to what the host logs per optimizer step."""

    def init_trackers(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        already = getattr(trainer, "_trackers_initialized", False)
        wrapped(*args, **kwargs)
        distiller = distiller_of(trainer)
        if distiller is None or already:
            return
        interval, max_steps = distiller.options.trajectory_interval, int(trainer.config.max_train_steps)
        accelerator = trainer.accelerator
        log = accelerator.log

        def log_with_terms(values: dict, step: int | None = None, **log_kwargs: Any) -> None:
            if STEP_MARK not in values or step is None:
                log(values, step=step, **log_kwargs)
                return
            means = distiller.meter.means(accelerator)  # also without trackers, for the progress line
            terms = {f"twinflow/{name}": mean for name, mean in means.items()} if accelerator.log_with else {}
            log(values | terms, step=step, **log_kwargs)
            # After the values, so that a chart that cannot be drawn takes none of them along.
            with_wandb = any(tracker.name == "wandb" for tracker in accelerator.trackers)
            if accelerator.is_main_process and with_wandb and chart_is_due(step, interval, max_steps):
                from simpletuner_twinflow.host.training.wandb_chart import trajectory_chart

                log(trajectory_chart(distiller.meter.positions(), step=step), step=step, **log_kwargs)

        set_on(accelerator, "log", log_with_terms)

    wrap(module, "Trainer.init_trackers", init_trackers)


@uses(
    Seam("Trainer.train", ("self",)),
    Seam("tqdm", touch=Touch.wrapped),
    Seam("tqdm.set_postfix", ("kwargs",), Touch.on_run, "tqdm.std"),
    lost="the progress line does not show the terms",
)
def show_terms_in_progress(module: ModuleType) -> None:
    """Have the progress line of a TwinFlow run show its terms, as they were logged last, beside the host's loss."""
    training: ContextVar[Any | None] = ContextVar("training", default=None)  # this thread's distiller, while it trains

    def train(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        token = training.set(distiller_of(trainer))
        try:
            return wrapped(*args, **kwargs)
        finally:
            training.reset(token)

    def make_bar(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        bar, distiller = wrapped(*args, **kwargs), training.get()
        if distiller is not None:
            set_postfix = bar.set_postfix

            def set_postfix_with_terms(ordered_dict: dict | None = None, refresh: bool = True, **values: Any) -> None:
                losses = {name: mean for name, mean in distiller.meter.last.items() if name in LOSSES}
                set_postfix(ordered_dict, refresh, **values | losses)

            set_on(bar, "set_postfix", set_postfix_with_terms)
        return bar

    wrap(module, "Trainer.train", train)
    wrap(module, "tqdm", make_bar)


@uses(Seam("Trainer.train", ("self",)), lost="the error of a loss that is not finite does not name the terms")
def name_terms_of_failure(module: ModuleType) -> None:
    """Have the host's error of a loss that is not finite name the terms that are not."""

    def train(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except RuntimeError as error:
            distiller = distiller_of(trainer)
            # Only after the host's error of this name: after another one the device may not answer.
            if distiller is not None and str(error).startswith("Non-finite"):
                named = [f"twinflow/{name} is {value}" for name, value in distiller.meter.not_finite().items()]
                if named:
                    error.add_note(f"simpletuner-twinflow: {', '.join(named)}.")
            raise

    wrap(module, "Trainer.train", train)


def chart_is_due(step: int, interval: int, max_steps: int) -> bool:
    """Whether a step (counted from 1) logs a chart: the first, and each `interval` that leaves at most MAX_CHARTS."""
    if interval == 0:
        return False
    thinned = -(-max_steps // MAX_CHARTS)
    return step == 1 or step % (-(-thinned // interval) * interval) == 0
