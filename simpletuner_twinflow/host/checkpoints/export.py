"""The export at the end of a TwinFlow run: the weights asked for, in stock classes, with a few-step scheduler.

Checkpoints also keep the weights that only training needs, since a run resumes from them.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from simpletuner_twinflow.host.checkpoints.full_weights import is_full
from simpletuner_twinflow.host.run import active_options, argument, exported_weights, options_of, wrap_active
from simpletuner_twinflow.host.seams import MODELS, STATE, Seam, Touch, set_on, uses, wrap
from simpletuner_twinflow.host.training.auxiliary import PROJECTORS
from simpletuner_twinflow.host.training.compiled import plain_name
from simpletuner_twinflow.host.training.lycoris import lycoris_of
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.host.training.time_conditioning import TIME_CONDITIONING
from simpletuner_twinflow.method.sharding import gathered, reshard

logger = logging.getLogger("simpletuner_twinflow")


def stock_scheduler_of(model: Any) -> Any | None:
    """The stock scheduler to export with the host's `ModelFoundation`; None where stock diffusers has none close."""
    return model.twinflow_model.stock_scheduler(options_of(model.config).target_step_count)


@uses(
    Seam("Trainer.init_distillation", ("self",)),
    Seam("Trainer._get_trainable_parameters", ("self",), Touch.read),
    Seam("ModelFoundation.get_pipeline", ("pipeline_type",), Touch.on_run, MODELS),
    Seam("ModelFoundation.load_text_encoder", ("move_to_device",), Touch.read, MODELS),
    Seam("ModelFoundation.save_lora_weights", ("save_directory",), Touch.on_run, MODELS),
    Seam("DiffusionPipeline.save_pretrained", ("save_directory",), Touch.on_run, "diffusers.pipelines.pipeline_utils"),
)
def attach_to_export(module: ModuleType) -> None:
    """Have the run's model save itself, at the end, as something that stock diffusers loads and draws with."""

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if options_of(trainer.config).export_weights == "auto" and not trainer.config.use_ema:
            logger.warning('use_ema is false, so twinflow_export_weights "auto" exports the student\'s weights.')
        if trainer.config.model_type == "full":
            export_pipeline(trainer)
        elif lycoris_of(trainer.model) is None:  # see lycoris_file.py for those
            export_adapter(trainer)

    wrap_active(module, "Trainer.init_distillation", init_distillation)


def export_pipeline(trainer: Any) -> None:
    """Have the pipelines of the run's model save themselves in stock classes; the host saves one, at the end."""
    from simpletuner_twinflow.host.checkpoints.stock_pipeline import stock_pipeline

    model, get_pipeline = trainer.model, trainer.model.get_pipeline

    def get(*args: Any, **kwargs: Any) -> Any:
        pipeline = get_pipeline(*args, **kwargs)
        # Weak, since the host expects a pipeline's memory to be freed with its own last reference.
        reference = weakref.ref(pipeline)

        def save_pretrained(folder: str, **options: Any) -> None:
            # Of sharded weights the host has put whole ones, on the main process, into the pipeline that it saves.
            whole = getattr(reference(), model.MODEL_TYPE.value) if is_fsdp2(trainer.accelerator) else None
            stock = stock_pipeline(reference(), model, TIME_CONDITIONING, stock_scheduler_of(model), trained=whole)
            stock.save_pretrained(folder, **options)

        set_on(pipeline, "save_pretrained", save_pretrained)
        return pipeline

    set_on(model, "get_pipeline", get)


def export_adapter(trainer: Any) -> None:
    """Save the weights asked for as the run's final adapter, which adds to the untouched base.

    Beside it a scheduler, and a workflow for ComfyUI.

    Must run before the adapter is trained or resumed, see `taken_from_base`.
    """
    from simpletuner_twinflow.host.checkpoints.adapter_file import taken_from_base
    from simpletuner_twinflow.host.checkpoints.other_programs import (
        describe_for_other_programs,
        say_whether_comfyui_reads,
    )

    model, save = trainer.model, trainer.model.save_lora_weights
    taken = taken_from_base(model.get_trained_component(unwrap_model=True))
    gather: Callable[[], dict[str, Tensor]] = partial(_trained, trainer)
    if is_fsdp2(trainer.accelerator):
        gather = trainer.twinflow_gather = cache(gather)  # once, on all ranks; the main process alone saves

    def save_lora_weights(*args: Any, **kwargs: Any) -> Any:
        folder = Path(argument(args, kwargs, "save_directory"))
        if folder != Path(trainer.config.output_dir):  # a checkpoint's
            return save(*args, **kwargs)
        saved = save(*args, **(kwargs | _adapter(trainer, gather(), taken)))
        if (scheduler := stock_scheduler_of(model)) is not None:
            scheduler.save_pretrained(folder / "scheduler")
        describe_for_other_programs(model, folder)
        return saved

    say_whether_comfyui_reads(model)
    set_on(model, "save_lora_weights", save_lora_weights)


def _adapter(trainer: Any, trained: dict[str, Tensor], taken: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter's weights and the header of its file, as the host passes them to its `save_lora_weights`."""
    from simpletuner_twinflow.host.checkpoints.adapter_file import described, whole_change

    network, name = trainer.model.get_trained_component(unwrap_model=True), trainer.model.MODEL_TYPE.value
    layers = whole_change(network, trained, taken)
    return {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": described(network, layers)}


def _trained(trainer: Any) -> dict[str, Tensor]:
    """The adapter's weights that the run exports, whole and on the CPU; of sharded ones all ranks must call this."""
    from peft.utils import get_peft_model_state_dict

    network = trainer.model.get_trained_component(unwrap_model=True)
    reshard(network)
    with weights_to_export(trainer):
        weights = without_projectors(get_peft_model_state_dict(network))
        return {
            plain_name(key): gathered(weight).detach().cpu().contiguous().clone() for key, weight in weights.items()
        }


@uses(Seam("Trainer._fsdp2_full_export_failure_guard", ("enabled",)))
def attach_to_sharded_export(module: ModuleType) -> None:
    """Gather the adapter that is exported while all ranks are there: what follows, the main process does alone."""

    def guard(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        if (gather := getattr(trainer, "twinflow_gather", None)) is not None:
            gather()
        return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer._fsdp2_full_export_failure_guard", guard)


def without_projectors(weights: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's weights without the projectors of auxiliary losses, with which stock diffusers refuses the file."""
    return {key: weight for key, weight in weights.items() if not PROJECTORS & {*key.split(".")}}


@contextmanager
def weights_to_export(trainer: Any) -> Iterator[None]:
    """Inside this block the trained parameters are those that the run exports."""
    if exported_weights(trainer.config) == "student":
        yield
        return
    parameters = list(trainer._get_trainable_parameters())
    trainer.ema_model.store(parameters)
    trainer.ema_model.copy_to(parameters)
    try:
        yield
    finally:
        trainer.ema_model.restore(parameters)


@uses(
    Seam("_inference_state_dict", ("state_dict",)),
    Seam("_materialize_fsdp2_state_dict_for_save", ("accelerator", "component", "ema_model")),
    Seam("StateTracker.get_args", touch=Touch.read, module=STATE),
    lost="a full fine-tune under FSDP cannot export its weights",
    needed_by=lambda config: bool(config.get("fsdp_enable")) and is_full(config),
)
def attach_to_sharded_files(module: ModuleType) -> None:
    """Have a full fine-tune under FSDP2 export the weights asked for, without the modules that only training needs."""

    def inference_state_dict(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> dict:
        return {
            key: value for key, value in wrapped(*args, **kwargs).items() if key.split(".")[0] not in TIME_CONDITIONING
        }

    def materialize(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> dict:
        from simpletuner.helpers.training.state_tracker import StateTracker

        config = StateTracker.get_args()
        if active_options(config) is None:
            return wrapped(*args, **kwargs)
        reshard(argument(args, kwargs, "component", 1))
        return wrapped(*args, **(kwargs | ({"ema_model": None} if exported_weights(config) == "student" else {})))

    wrap(module, "_inference_state_dict", inference_state_dict)
    wrap(module, "_materialize_fsdp2_state_dict_for_save", materialize)


@uses(
    Seam("EMAModel.copy_to", ("parameters",)),
    Seam("EMAModel.store", ("parameters",), Touch.read),
    Seam("EMAModel.restore", ("parameters",), Touch.read),
    Seam("EMAModel.temp_stored_params", touch=Touch.read),
    Seam("EMAModel.args", touch=Touch.read),
)
def keep_student_for_export(module: ModuleType) -> None:
    """Keep a full fine-tune's own weights where they are to be exported; the host overwrites them with EMA's."""

    def copy_to(wrapped: Callable, ema: Any, args: tuple, kwargs: dict) -> None:
        # Only the host's export copies without having stored the student's weights.
        if ema.temp_stored_params is not None or exported_weights(ema.args) != "student":
            wrapped(*args, **kwargs)

    wrap_active(module, "EMAModel.copy_to", copy_to)
