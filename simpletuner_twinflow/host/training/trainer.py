"""The training step: our distiller in the host's trainer, our terms in place of the host's loss."""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import active_options, argument, options_of, wrap_active
from simpletuner_twinflow.host.seams import MODELS, STATE, Seam, Touch, set_on, uses, wrap
from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT

UNCONDITIONAL = "unconditional_text_embeddings"  # the host's name for them, in what a distiller requires of a batch
SHARED_BATCHES = "simpletuner.helpers.data_backend.runtime.context_parallel_sync"
HOST_SIGN_EMBED = "enable_time_sign_embed"  # the host's loading argument for its own sign embedding


@uses(
    Seam("Trainer.init_distillation_adapter_modules", ("self",)),
    Seam("Trainer.init_trainable_peft_adapter", ("self",)),
    Seam("Trainer.init_distillation", ("self",)),
    Seam("Trainer._compute_model_prediction_loss", ("prepared_batch",)),
    Seam("Trainer._prepare_regularisation_parent_targets", ("prepared_batch",)),
    Seam("Trainer.distiller", touch=Touch.given),
    Seam("Trainer.model_predict", ("prepared_batch",), Touch.read),
    Seam("Trainer._get_trainable_parameters", ("self",), Touch.read),
    Seam("Trainer.prepare_batch", ("batch",), Touch.read),
    Seam("DistillationBase", touch=Touch.read, module="simpletuner.helpers.distillation.common"),
    Seam("ModelFoundation.model_predict", ("prepared_batch",), Touch.on_run, MODELS),
    Seam("ModelFoundation.get_trained_component", ("unwrap_model",), Touch.read, MODELS),
    Seam("ModelFoundation.prediction_to_noiseward_flow", ("prediction",), Touch.read, MODELS),
    Seam("ModelFoundation.flow_matching_timesteps_from_sigmas", ("reference_timesteps",), Touch.read, MODELS),
    Seam("ModelFoundation.auxiliary_loss", ("model_output", "prepared_batch", "loss"), Touch.read, MODELS),
    Seam("ModelFoundation.assistant_lora_loaded", touch=Touch.read, module=MODELS),
    Seam("PredictionTypes", touch=Touch.read, module=MODELS),
    Seam("get_model_replica_data_info", ("accelerator",), Touch.read, SHARED_BATCHES),
    Seam("AcceleratorState.dynamo_plugin", (), Touch.read, "accelerate.state"),
    Seam("BaseTunerLayer._disable_adapters", (), Touch.in_block, "peft.tuners.tuners_utils"),
    Seam("TREADRouter.get_mask", ("x", "mask_ratio"), Touch.in_block, "simpletuner.helpers.training.tread"),
)
def attach_to_trainer(module: ModuleType) -> None:
    """Install the distiller of a TwinFlow run, and take its loss instead of the host's."""

    def init_adapter_modules(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        from simpletuner_twinflow.host.training.diffusion_model import family_model_for

        wrapped(*args, **kwargs)
        trainer.twinflow_model = trainer.model.twinflow_model = family_model_for(trainer.model)
        trainer.twinflow_model.attach_time_conditioning()

    def init_adapter(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        with trainer.twinflow_model.time_conditioning_hidden():
            wrapped(*args, **kwargs)
        trainer.twinflow_model.train_time_conditioning()

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        from simpletuner_twinflow.host.training.distiller import TwinFlowDistiller

        wrapped(*args, **kwargs)
        options = settled(options_of(trainer.config), trainer.config.model_type)
        set_on(trainer, "distiller", TwinFlowDistiller(trainer, options, trainer.twinflow_model))

    def compute_loss(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> tuple:
        loss, terms, logs = trainer.distiller.training_loss(argument(args, kwargs, "prepared_batch"))
        forget_expert_losses(trainer.config)
        # As the host returns them: loss, its logs, the diffusion loss, auxiliary logs, distiller's logs. The terms are
        # logged by logging.py, so that nothing waits for the device here.
        return loss, None, terms, logs, {}

    wrap_active(module, "Trainer._prepare_regularisation_parent_targets", lambda *_: None)  # our distiller's work
    wrap_active(module, "Trainer.init_distillation_adapter_modules", init_adapter_modules)
    wrap_active(module, "Trainer.init_trainable_peft_adapter", init_adapter)
    wrap_active(module, "Trainer.init_distillation", init_distillation)
    wrap_active(module, "Trainer._compute_model_prediction_loss", compute_loss)


def forget_expert_losses(config: Any) -> None:
    """Empty the list to which HiDream's experts add a loss at each pass; the host's own loss would empty it."""
    if config.model_family == "hidream":
        from simpletuner.helpers.models.hidream.transformer import clear_load_balancing_loss

        clear_load_balancing_loss()


def distiller_of(trainer: Any) -> Any | None:
    """The trainer's TwinFlow distiller, if this is a TwinFlow run."""
    from simpletuner_twinflow.host.training.distiller import TwinFlowDistiller

    distiller = getattr(trainer, "distiller", None)
    return distiller if isinstance(distiller, TwinFlowDistiller) else None


@uses(
    Seam("ModelFoundation._twinflow_active", ("self",)),
    Seam("ModelFoundation.pretrained_load_args", ("pretrained_load_args",)),
)
def hold_back_host_implementation(module: ModuleType) -> None:
    """Keep the host's own TwinFlow out of a run that this plugin trains."""

    def pretrained_load_args(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> dict:
        given = dict(argument(args, kwargs, "pretrained_load_args"))
        loaded = wrapped(*args, **kwargs)
        if HOST_SIGN_EMBED not in given:
            loaded.pop(HOST_SIGN_EMBED, None)  # the plugin has its own: time_conditioning.py
        return loaded

    wrap_active(module, "ModelFoundation._twinflow_active", lambda *_: False)
    wrap_active(module, "ModelFoundation.pretrained_load_args", pretrained_load_args)


def encodes_empty_prompt(config: Any) -> bool:
    """Whether the text encoder is asked for the empty prompt in the run's family; some have zeros in its place."""
    family = FAMILIES.get(config.model_family)
    return family is None or not family.zeros_without_prompt


def _requirements(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> set[str]:
    """The host's requirements of a batch, and the empty prompt's embeddings when guidance is trained in."""
    from simpletuner.helpers.training.state_tracker import StateTracker

    config = StateTracker.get_args()
    options = active_options(config)
    guided = options is not None and options.scale > 1 and encodes_empty_prompt(config)
    return wrapped(*args, **kwargs) | ({UNCONDITIONAL} if guided else set())


@uses(
    Seam("DistillerFactory.training_batch_requirements", ("method", "config")),
    Seam("StateTracker.get_args", touch=Touch.read, module=STATE),
)
def ask_for_unconditional_embeddings(module: ModuleType) -> None:
    """Have the text cache encode the empty prompt when guidance is trained in."""
    wrap(module, "DistillerFactory.training_batch_requirements", _requirements)


@uses(
    Seam("_distillation_training_batch_requirements"),
    Seam("compute_prompt_embeddings", ("prompt_entries", "text_embed_cache", "model")),
    Seam("collate_fn", ("batch",)),
    Seam("StateTracker.get_args", touch=Touch.read, module=STATE),
)
def load_unconditional_embeddings(module: ModuleType) -> None:
    """Have the collator put the empty prompt's embeddings into each batch when guidance is trained in.

    The host passes on four entries of them, and families with more text encoders have more.
    """
    collating = threading.local()

    def embeddings(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> dict:
        found = wrapped(*args, **kwargs)
        if (outputs := getattr(collating, "outputs", None)) is not None:
            outputs.append(found)
        return found

    def collate(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        collating.outputs = []
        try:
            batch = wrapped(*args, **kwargs)
            if len(collating.outputs) == 2:  # the prompts' and, if required, the empty prompt's
                batch[EMPTY_PROMPT] = collating.outputs[1]
            return batch
        finally:
            collating.outputs = None

    wrap(module, "_distillation_training_batch_requirements", _requirements)
    wrap(module, "compute_prompt_embeddings", embeddings)
    wrap(module, "collate_fn", collate)
