"""ACE-Step in a TwinFlow run: what the host leaves out of its batches, its clean prediction, and its faults mended."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.host.run import active_options, argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, set_on, uses, wrap

VELOCITY = "twinflow_velocity"  # batch key of the passes that are asked for a velocity
KEPT = ("prompts", "is_regularisation_data")  # what the host's trainer has put into a batch and the family leaves out
SSL = "ssl_hidden_states"  # batch key: features of the whole songs, for losses that are not trained; see overridden.py


@uses(
    Seam("ACEStep.__init__", ("config",)),
    Seam("LanguageIdentifier.from_pickled_model", touch=Touch.given, module="py3langid.langid"),
    lost="a run of ace_step ends where py3langid is of version 0.4",
)
def find_languages(module: ModuleType) -> None:
    """Let the host's model be made with a py3langid that reads its own file by another name than the host asks for."""

    def init(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> None:
        from py3langid.langid import LanguageIdentifier  # type: ignore[import-untyped]  # the host brings it

        active = active_options(argument(args, kwargs, "config", 0)) is not None
        if not active or hasattr(LanguageIdentifier, "from_pickled_model"):
            wrapped(*args, **kwargs)
            return
        log_mending("ace_step finds the languages of lyrics by py3langid's own file")
        with changed(LanguageIdentifier, from_pickled_model=LanguageIdentifier.from_model_file):
            wrapped(*args, **kwargs)

    wrap(module, "ACEStep.__init__", init)


@uses(Seam("ACEStep.prepare_batch", ("batch", "state")))
def complete_batches(module: ModuleType) -> None:
    """Keep in a batch what TwinFlow needs: the noise, the prompts' words, and whether it is of a regularisation set."""

    def prepare(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> dict:
        given = argument(args, kwargs, "batch")
        kept = {name: given[name] for name in KEPT if given and name in given}
        prepared: dict[str, Any] = wrapped(*args, **kwargs)
        prepared.pop(SSL, None)
        if prepared:
            prepared.setdefault("noise", torch.randn_like(prepared["latents"]))
        return prepared | kept

    wrap_active(module, "ACEStep.prepare_batch", prepare)


@uses(
    Seam("ACEStep.get_pipeline", ("pipeline_type",)),
    Seam("ACEStep.load_vae", ("self",), Touch.read),
    Seam("ACEStepPipeline.dtype", touch=Touch.on_run, module="simpletuner.helpers.models.ace_step.pipeline"),
    lost="a validation of ace_step makes no song unless keep_vae_loaded is true and mixed_precision bf16",
)
def keep_decoder(module: ModuleType) -> None:
    """Let the host's pipeline make sound: with the decoder that the run has unloaded, and in the run's own dtype.

    The host makes it without a decoder, and with latents in bfloat16 whatever the networks are in.
    """

    def get_pipeline(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        if getattr(model, "vae", None) is None:
            log_mending("ace_step's pipeline gets its decoder of sound back")
            model.load_vae()
        pipeline = wrapped(*args, **kwargs)
        if pipeline.dtype != model.config.weight_dtype:
            log_mending("ace_step's pipeline makes its latents in %s, as the network is", model.config.weight_dtype)
            set_on(pipeline, "dtype", model.config.weight_dtype)
        return pipeline

    wrap_active(module, "ACEStep.get_pipeline", get_pipeline)


def predict_velocity(model: Any) -> None:
    """Have a `ModelFoundation` that predicts x_t - sigma v, the clean sample, do so at sigma 1 on TwinFlow's batches.

    There the velocity is what the prediction lacks to x_t, without a division by sigma.
    """
    predict = model.model_predict

    def model_predict(prepared_batch: dict, *args: Any, **kwargs: Any) -> dict:
        if VELOCITY in prepared_batch:
            prepared_batch = prepared_batch | {"sigmas": torch.ones_like(prepared_batch["sigmas"], dtype=torch.float32)}
        found: dict[str, Any] = predict(prepared_batch, *args, **kwargs)
        return found

    set_on(model, "model_predict", model_predict)


def song_weights(batch: Mapping[str, Any]) -> Tensor | None:
    """The weight of each squared error as the host's own loss has it: (B, 1, 1, L) float32, L latents of sound.

    1 in a song and 0 in what fills it up to its batch's length; all of a song by the share that it fills, once more.
    None in a batch without a mask.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        return None
    mask = mask.float()
    return (mask * mask.mean(dim=1, keepdim=True)).reshape(len(mask), *[1] * (batch["latents"].ndim - 2), -1)
