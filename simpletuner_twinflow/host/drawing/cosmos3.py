"""Cosmos 3's validation, which draws nothing in the host: its pipeline is given no prompt, and half of its network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import MODELS, STATE, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.training.cosmos3 import encodes_sizes

COSMOS3 = "simpletuner.helpers.models.cosmos3.model"


@uses(
    Seam("_precache_validation_prompt_embeddings", ("model",)),
    Seam("prepare_validation_prompt_list", ("model",)),
    Seam("Validation._gather_prompt_embeds", ("validation_prompt",)),
    Seam("Validation._extract_pipeline_media", ("pipeline_result",)),
    Seam("Validation.run_validations", ("validation_type",)),
    Seam("ModelFoundation.VALIDATION_USES_NEGATIVE_PROMPT", touch=Touch.in_block, module=MODELS),
    Seam("Cosmos3Image._load_reasoner", ("self",), Touch.read, COSMOS3),
    Seam("StateTracker.get_model", touch=Touch.read, module=STATE),
    lost="the validation of cosmos3 draws nothing",
)
def let_validation_draw(module: ModuleType) -> None:
    """Give the pipeline the prompt's words, which it encodes itself, the number of frames, and all of the network."""

    def precache(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        # The host encodes a validation prompt for no size, raises, and would not use it.
        return None if encodes_sizes(argument(args, kwargs, "model", 2)) else wrapped(*args, **kwargs)

    def prepare(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        with _no_negative_embedding(argument(args, kwargs, "model", 2)):
            return wrapped(*args, **kwargs)

    def gather(wrapped: Callable, validation: Any, args: tuple, kwargs: dict) -> Any:
        if not encodes_sizes(validation.model):
            return wrapped(*args, **kwargs)
        config = validation.config
        log_mending("the prompt of %s's validation goes to its pipeline in words", config.model_family)
        return {
            "prompt": argument(args, kwargs, "validation_prompt"),
            "negative_prompt": config.validation_negative_prompt,
            "num_frames": int(config.validation_num_video_frames or 1),
            "fps": float(config.framerate or 24.0),
        }

    def extract(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        from simpletuner.helpers.training.state_tracker import StateTracker

        found = wrapped(*args, **kwargs)
        frames = getattr(argument(args, kwargs, "pipeline_result"), "video", None)
        if found is not None or frames is None or not encodes_sizes(StateTracker.get_model()):
            return found
        return frames if len(frames) == 1 else [frames]

    def run_validations(wrapped: Callable, validation: Any, args: tuple, kwargs: dict) -> Any:
        if not encodes_sizes(validation.model):
            return wrapped(*args, **kwargs)
        with _no_negative_embedding(validation.model), reading(validation.model):
            return wrapped(*args, **kwargs)

    wrap(module, "_precache_validation_prompt_embeddings", precache)
    wrap(module, "prepare_validation_prompt_list", prepare)
    wrap_active(module, "Validation._gather_prompt_embeds", gather)
    wrap(module, "Validation._extract_pipeline_media", extract)
    wrap_active(module, "Validation.run_validations", run_validations)


@contextmanager
def _no_negative_embedding(model: Any) -> Iterator[None]:
    if not encodes_sizes(model):
        yield
        return
    with changed(model, VALIDATION_USES_NEGATIVE_PROMPT=False):
        yield


@contextmanager
def reading(model: Any) -> Iterator[None]:
    """Inside this block a pipeline can draw with a network that the host has loaded without its reading layers.

    What it lacks are each layer's keys and values of the prompt: the host's reasoner, a network of its own, has them.
    """
    network = model.get_trained_component(unwrap_model=True)
    if network.load_reasoning_layers:
        yield
        return
    read: dict[tuple[int, ...], Any] = {}

    def with_prompt(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if kwargs.get("reasoner_memory_state") is not None:
            return args, kwargs
        words, length = kwargs["input_ids"], kwargs["und_len"]
        key = tuple(words.tolist())
        if key not in read:
            places = kwargs["position_ids"][:, :length]
            read[key] = model._load_reasoner()(input_ids=words, position_ids=places)
        return args, kwargs | {"reasoner_memory_state": read[key]}

    handle = network.register_forward_pre_hook(with_prompt, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        model.after_text_embed_cache_precompute()  # puts the reasoner back
