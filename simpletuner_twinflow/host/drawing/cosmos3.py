"""Cosmos 3's validation, which draws nothing in the host: its pipeline is given no prompt, and half of its network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from simpletuner_twinflow.host.run import argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import MODELS, STATE, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.host.settings.first_frame import has_first_frame
from simpletuner_twinflow.host.training.cosmos3 import encodes_sizes

COSMOS3 = "simpletuner.helpers.models.cosmos3.model"
FIRST_FRAME = "first-frame.png"  # in the model card's code: a file of the user's


@uses(
    Seam("_precache_validation_prompt_embeddings", ("model",)),
    Seam("prepare_validation_prompt_list", ("model",)),
    Seam("Validation._gather_prompt_embeds", ("validation_prompt",)),
    Seam("Validation._extract_pipeline_media", ("pipeline_result",)),
    Seam("Validation.run_validations", ("validation_type",)),
    Seam("ModelFoundation.VALIDATION_USES_NEGATIVE_PROMPT", touch=Touch.in_block, module=MODELS),
    Seam("Cosmos3Image._load_reasoner", ("self",), Touch.read, COSMOS3),
    Seam("StateTracker.get_model", touch=Touch.read, module=STATE),
    Seam(
        "Cosmos3OmniPipeline._build_generation_json_prompt",
        ("num_frames", "fps", "height", "width"),
        Touch.read,
        "simpletuner.helpers.models.cosmos3.pipeline",
    ),
    Seam("config.validation_stitch_input_location", touch=Touch.in_block),
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
        log_mending("the prompt of %s's validation goes to its pipeline in words", validation.config.model_family)
        words = {"prompt": argument(args, kwargs, "validation_prompt")}
        return words | {"negative_prompt": validation.config.validation_negative_prompt} | film(validation.config)

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
        with _no_negative_embedding(validation.model), reading(validation.model), _not_beside(validation.config):
            return wrapped(*args, **kwargs)

    wrap(module, "_precache_validation_prompt_embeddings", precache)
    wrap(module, "prepare_validation_prompt_list", prepare)
    wrap_active(module, "Validation._gather_prompt_embeds", gather)
    wrap(module, "Validation._extract_pipeline_media", extract)
    wrap_active(module, "Validation.run_validations", run_validations)


def film(config: Any) -> dict[str, Any]:
    """The pipeline's arguments for the length of what a validation draws: one frame is a picture."""
    return {"num_frames": int(config.validation_num_video_frames or 1), "fps": float(config.framerate or 24.0)}


class Worded(NamedTuple):
    """A prompt in the words of training, for the stock pipeline, which words prompts otherwise."""

    code: list[str]  # that makes the stock pipeline introduce a prompt in the same words
    arguments: dict[str, Any]  # of its call
    picture: list[str]  # what else it is called with: the film's first frame, where the network is given one


def worded(model: Any, prompt: str, width: int, height: int) -> Worded:
    """Args: model: the host's. prompt: of a picture or film of this size, in pixels, and of the validation's length."""
    from simpletuner.helpers.models.cosmos3 import pipeline

    length = film(model.config)
    build = pipeline.Cosmos3OmniPipeline._build_generation_json_prompt
    words = build(prompt, width=width, height=height, **length)
    name = "_SYSTEM_PROMPT_IMAGE" if length["num_frames"] == 1 else "_SYSTEM_PROMPT_VIDEO"
    code = [
        "# The words of training; the pipeline's own are others.",
        f"pipeline_cosmos3_omni.{name} = {getattr(pipeline, name)!r}",
        "pipeline.register_to_config(use_native_flow_schedule=False)",  # it would bring sigmas of its own
    ]
    bare = {"add_resolution_template": False, "add_duration_template": False}
    given = has_first_frame(FAMILIES[model.config.model_family], model.config.model_flavour)
    picture = [f"image=load_image({FIRST_FRAME!r})"] if given else []
    return Worded(code, {"prompt": words} | bare | length, picture)


@contextmanager
def _no_negative_embedding(model: Any) -> Iterator[None]:
    if not encodes_sizes(model):
        yield
        return
    with changed(model, VALIDATION_USES_NEGATIVE_PROMPT=False):
        yield


@contextmanager
def _not_beside(config: Any) -> Iterator[None]:
    """Inside this block a validation's picture is not put beside a film that is drawn of it: there the host fails."""
    if film(config)["num_frames"] == 1:
        yield
        return
    with changed(config, validation_stitch_input_location=None):
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
