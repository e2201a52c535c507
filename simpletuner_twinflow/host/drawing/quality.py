"""When the quality of few-step samples is measured while training, and how it is logged."""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.drawing.measure import QualityMeasure, Values
from simpletuner_twinflow.host.drawing.records import Records, end_earlier
from simpletuner_twinflow.host.seams import MODELS, Seam, Touch, set_on, uses, wrap
from simpletuner_twinflow.host.settings.budget import ONE_PICTURE
from simpletuner_twinflow.host.settings.data_config import is_one_picture
from simpletuner_twinflow.host.training.logging import STEP_MARK
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.host.training.trainer import distiller_of
from simpletuner_twinflow.options import TwinFlowOptions

logger = logging.getLogger("simpletuner_twinflow")


@uses(
    Seam("Trainer.init_trackers", ("self",)),
    Seam("Trainer._trackers_initialized", touch=Touch.read),
    Seam("Trainer._get_trainable_parameters", ("self",), Touch.read),
    Seam("Accelerator.log", ("values", "step"), Touch.on_run, "accelerate.accelerator"),
    Seam("ModelFoundation.decode_latents_to_pixels", ("latents",), Touch.read, MODELS),
    Seam("ModelFoundation.get_vae", ("self",), Touch.read, MODELS),
    Seam("ModelFoundation.unload_vae", ("self",), Touch.read, MODELS),
    Seam(
        "record_validation_media",
        ("config", "media_path", "media_type", "label", "index"),
        Touch.read,
        "simpletuner.helpers.training.local_metrics",
    ),
    lost="the quality of few-step samples is not measured while training",
)
def attach_to_logging(module: ModuleType) -> None:
    """Measure at the steps that are due, where the host logs them."""

    def init_trackers(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        already = getattr(trainer, "_trackers_initialized", False)
        wrapped(*args, **kwargs)
        distiller = distiller_of(trainer)
        if distiller is None or already:
            return
        measure, accelerator = _measure_of(trainer, distiller.options), trainer.accelerator
        if measure is None:
            if accelerator.is_main_process:
                end_earlier(trainer)
            return
        if accelerator.is_main_process and is_one_picture(trainer.config.data_backend_config):
            logger.warning(ONE_PICTURE)
        distiller.show_batches(measure.rows.add)
        log, last = accelerator.log, int(trainer.config.max_train_steps)
        records = Records(trainer) if accelerator.is_main_process else None
        beside_main = distiller.replica.rank == 0  # the processes with which the main one makes its passes

        def log_with_quality(values: dict, step: int | None = None, **more: Any) -> None:
            log(values, step=step, **more)
            if STEP_MARK in values and step is not None and (step % measure.interval == 0 or step == last):
                try:
                    log_quality(step, **more)
                except Exception:  # the host drops what a tracker raises, so it is said here
                    logger.exception("TwinFlow could not measure the quality of few-step samples at step %s.", step)
                    raise

        def log_quality(step: int, **more: Any) -> None:
            found = measure.values()
            if not found and step == last and records is not None:
                logger.warning(
                    "TwinFlow did not measure the quality of few-step samples: the run trained on fewer rows than "
                    "twinflow_quality_samples %s.",
                    measure.budget.samples,
                )
            fields, sheet = (measure.fields(), measure.sheet()) if found and beside_main else ({}, None)
            if found and records is not None:
                logger.info(as_text(found, measure.budget.samples, step))
                logged = {f"twinflow/quality/{name}": value for name, value in found.items()}
                logged |= {f"twinflow/fields/{name}": value for name, value in fields.items()}
                log(logged, step=step, **more)
                records.add(found, measure.budget.samples, step, sheet=sheet is not None)
                if sheet is not None:
                    records.add_sheet(sheet, step)

        set_on(accelerator, "log", log_with_quality)

    wrap(module, "Trainer.init_trackers", init_trackers)


def _measure_of(trainer: Any, options: TwinFlowOptions) -> QualityMeasure | None:
    """None of a run that measures nothing."""
    if options.quality_samples == 0:
        return None
    if is_fsdp2(trainer.accelerator):
        logger.warning("TwinFlow measures no quality of few-step samples under FSDP: not all ranks would draw.")
        return None
    measure = QualityMeasure(trainer)
    if trainer.accelerator.is_main_process:
        logger.info(measure.described())
    return measure if measure.interval else None


def as_text(found: Values, samples: int, step: int) -> str:
    """The measures as a line of the log."""
    said = []
    for name in dict.fromkeys(name.split("/")[0] for name in found):
        diversity, aim = found.get(f"{name}/diversity"), found.get(f"{name}/mmd_to_guided_base_in_errors")
        beside = [] if diversity is None else [f"{diversity:.2f}"]
        beside += [] if aim is None else [f"to the guided base {aim:.1f}"]
        in_brackets = f" ({'; '.join(beside)})" if beside else ""
        said.append(f"{name.replace('_', ' in ')} {found[f'{name}/mmd_in_errors']:.1f}{in_brackets}")
    return (
        f"TwinFlow quality at step {step}, {samples} samples against the data, MMD in standard errors (diversity, data "
        f"1) by steps: {', '.join(said)}."
    )
