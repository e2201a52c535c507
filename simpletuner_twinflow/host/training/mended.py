"""Faults of the host that end a run before TwinFlow could train, mended in TwinFlow runs; each is logged when met."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses
from simpletuner_twinflow.host.settings.conflict_rows import is_lycoris

NO_SCHEDULER = "makes its pipeline without a scheduler to encode prompts with, and ends"
MENDED = {  # family -> what the host alone cannot do with it
    "ace_step": "asks py3langid for a way to read its file that version 0.4 has no more, and ends; its validation "
    "has no decoder of sound unless keep_vae_loaded is true",
    "sana": NO_SCHEDULER,
    "sanavideo": f"{NO_SCHEDULER}; its validation draws nothing",
    "ltxvideo": NO_SCHEDULER,
    "cosmos3": "encodes the empty prompt and those of validation for no picture's size, and ends",
    "sd1x": "makes its pipeline without a safety checker, even an absent one, to encode prompts with, and ends",
}


@uses(
    Seam("ModelFoundation._load_scheduler_for_pipeline", ("pipeline_type",)),
    Seam("ModelFoundation._load_pipeline", ("pipeline_type", "load_base_model")),
    Seam("ModelFoundation._model_config_path", ("self",), Touch.read),
    Seam("PipelineTypes", touch=Touch.read),
    Seam("DiffusionPipeline.__init__", touch=Touch.in_block, module="diffusers.pipelines.pipeline_utils"),
    lost="families that SimpleTuner alone cannot encode prompts for end there",
)
def complete_pipelines(module: ModuleType) -> None:
    """Give the pipelines that the host makes to encode prompts the parts that it leaves out."""

    def load_scheduler(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        scheduler = wrapped(*args, **kwargs)
        return _own_scheduler(model) if scheduler is None else scheduler

    def load_pipeline(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        kind = argument(args, kwargs, "pipeline_type", default=module.PipelineTypes.TEXT2IMG)
        with _without_optional_parts(model.PIPELINE_CLASSES[kind]):
            return wrapped(*args, **kwargs)

    wrap_active(module, "ModelFoundation._load_scheduler_for_pipeline", load_scheduler)
    wrap_active(module, "ModelFoundation._load_pipeline", load_pipeline)


@uses(
    Seam("ModelFoundation._apply_alpha_scaling", ("module", "alpha_map", "adapter_name")),
    Seam("LoraLayer.scaling", touch=Touch.on_run, module="peft.tuners.lora.layer"),
)
def scale_loaded_adapters(module: ModuleType) -> None:
    """Keep the scale alpha / rank of an adapter file with alphas, as `lora_format` comfyui writes.

    The host tests whether PEFT's table of rsLoRA flags is empty, which it never is, and takes alpha / sqrt(rank).
    """

    def apply(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> None:
        from peft.tuners.lora import LoraLayer

        wrapped(*args, **kwargs)
        network = argument(args, kwargs, "module")
        name = argument(args, kwargs, "adapter_name", 2, "default")
        wrong: set[float] = set()
        for layer in () if network is None else network.modules():
            if not isinstance(layer, LoraLayer) or name not in layer.scaling:
                continue
            rank = layer.r[name]
            scale = layer.lora_alpha[name] / (rank**0.5 if layer.use_rslora[name] else rank)
            if layer.scaling[name] != scale:
                layer.scaling[name] = scale
                wrong.add(scale)
        for scale in sorted(wrong):
            log_mending("an adapter that names its alphas is scaled by alpha / rank, %.4g, as in training", scale)

    wrap_active(module, "ModelFoundation._apply_alpha_scaling", apply)


@uses(
    Seam("SanaVideo.convert_negative_text_embed_for_pipeline", ("text_embedding",)),
    lost="Sana-Video's validation draws nothing",
)
def read_negative_prompts(module: ModuleType) -> None:
    """Let Sana-Video's validation draw: to find its negative prompt, the host takes the truth value of a tensor."""

    def convert(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> dict:
        given = argument(args, kwargs, "text_embedding")

        def first(*names: str) -> Any:
            return next((given[name] for name in names if given.get(name) is not None), None)

        # Under the names that the host looks up last.
        found = {
            "prompt_embeds": first("negative_prompt_embeds", "prompt_embeds"),
            "attention_mask": first("negative_prompt_attention_mask", "prompt_attention_mask", "attention_mask"),
        }
        log_mending("the negative prompt of %s's validation", model.config.model_family)
        return wrapped(found)

    wrap_active(module, "SanaVideo.convert_negative_text_embed_for_pipeline", convert)


@uses(
    Seam("LTXVideo2.post_model_load_setup", ("self",)),
    Seam("LTXVideo2.before_accelerator_prepare", ("self",), Touch.read),
    lost="a LyCORIS adapts LTX-Video 2's text connectors too, which nothing but SimpleTuner can load",
)
def keep_connectors_apart(module: ModuleType) -> None:
    """Keep LTX-Video 2's text connectors out of its network where a LyCORIS is made, as the host does afterwards.

    It would adapt them too; a PEFT adapter leaves them out by the host's own list.
    """

    def set_up(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if model.config.model_type == "lora" and is_lycoris(model.config.lora_type):
            model.before_accelerator_prepare()
            model.connectors.requires_grad_(False)
            log_mending("a LyCORIS leaves the text connectors of %s alone", model.config.model_family)

    wrap_active(module, "LTXVideo2.post_model_load_setup", set_up)


@uses(
    Seam("Trainer.train", ("self",)),
    Seam("Tensor.pin_memory", touch=Touch.given, module="torch"),
    lost="a run on a machine without an accelerator ends at its first batch",
)
def train_without_accelerator(module: ModuleType) -> None:
    """Let a run on a machine without an accelerator pin nothing; the host asks for it, and torch raises there."""

    def train(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        import torch

        if torch.accelerator.is_available():
            return wrapped(*args, **kwargs)
        log_mending("this machine has no accelerator, so that no memory is pinned for it")
        with changed(torch.Tensor, pin_memory=lambda tensor, *_, **__: tensor):
            return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer.train", train)


def _own_scheduler(model: Any) -> Any:
    """The scheduler in the folder or repository of the model's pipeline, in the class that its configuration names."""
    import diffusers

    source, revision = model._model_config_path(), model.config.revision
    config = diffusers.FlowMatchEulerDiscreteScheduler.load_config(source, subfolder="scheduler", revision=revision)
    log_mending("%s of %s comes from %s", config["_class_name"], model.config.model_family, source)
    return getattr(diffusers, config["_class_name"]).from_config(config)


@contextmanager
def _without_optional_parts(pipeline_class: Any) -> Iterator[None]:
    """Inside this block the class can be called without its optional components: they are None then."""
    init = pipeline_class.__init__
    required = {name for name, each in inspect.signature(init).parameters.items() if each.default is each.empty}
    optional = required.intersection(getattr(pipeline_class, "_optional_components", ()))

    @wraps(init)  # the host reads the signature
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if lacking := optional - kwargs.keys() if not args else ():
            log_mending("%s is made without %s", type(self).__name__, ", ".join(sorted(lacking)))
        init(self, *args, **dict.fromkeys(lacking) | kwargs)

    with changed(pipeline_class, __init__=__init__):
        yield
