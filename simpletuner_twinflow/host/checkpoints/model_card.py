"""The model card of a TwinFlow run: what was trained, what was exported, and code that draws with it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from diffusers import LCMScheduler

from simpletuner_twinflow.host.checkpoints.export import exported_weights, stock_scheduler_of
from simpletuner_twinflow.host.drawing.validation import REAL_GUIDANCE, sampling_guidance
from simpletuner_twinflow.host.run import active_options, options_of
from simpletuner_twinflow.host.seams import MODELS, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.stock import (
    stock_diffusion_settings,
    stock_scheduler,
    stock_settings,
    stock_timesteps,
)

DEVICE = '"cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"'


@uses(
    Seam("save_model_card", ("model", "repo_folder")),
    Seam("_model_card_base_model", ("args",), Touch.read),
    Seam("_validation_resolution", ("args",), Touch.read),
    Seam("ModelFoundation.VALIDATION_SCHEDULER_NAME", touch=Touch.given, module=MODELS),
    Seam("ImageModelFoundation.custom_model_card_training_mode_info", ("args",), Touch.in_block, MODELS),
    Seam("ImageModelFoundation.custom_model_card_code_example", ("repo_id",), Touch.in_block, MODELS),
    Seam("StateTracker.get_hf_username", touch=Touch.read, module="simpletuner.helpers.training.state_tracker"),
    Seam("config.validation_num_inference_steps", touch=Touch.in_block),
    Seam("config.validation_guidance", touch=Touch.in_block),
    lost="the model card says nothing of TwinFlow",
)
def describe_twinflow(module: ModuleType) -> None:
    """Have the host's card say how a TwinFlow run was validated, what it exported, and how to draw with that."""

    def save_model_card(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> None:
        model = args[0] if args else kwargs["model"]
        options = active_options(model.config)
        if options is None or "repo_folder" not in kwargs:
            return wrapped(*args, **kwargs)
        output, folder = Path(model.config.output_dir), Path(kwargs["repo_folder"])
        final = folder in (output, output / "pipeline")
        own = {
            "VALIDATION_SCHEDULER_NAME": type(model.twinflow_model.scheduler()).__name__,
            "custom_model_card_training_mode_info": _with_summary(model, final),
        }
        # A checkpoint's card keeps the host's code: what lies there is for resuming.
        if final:
            own["custom_model_card_code_example"] = lambda repo_id=None: _example(
                module, model, _repository(repo_id) if model.config.push_to_hub else str(folder)
            )
        settings = {
            "validation_num_inference_steps": options.target_step_count,
            "validation_guidance": sampling_guidance(model),
        }
        with changed(model, **own), changed(model.config, **settings):
            return wrapped(*args, **kwargs)

    wrap(module, "save_model_card", save_model_card)


def _with_summary(model: Any, final: bool) -> Callable[[Any], str]:
    options, family_info = options_of(model.config), model.custom_model_card_training_mode_info
    kinds = {"ema": "EMA", "student": "student"}
    weights = kinds[exported_weights(model.config)] if final else "a checkpoint's, to resume from"

    def info(config: Any) -> str:
        lines = (
            family_info(config),
            "- TwinFlow: few-step model, [arXiv:2512.05150](https://arxiv.org/abs/2512.05150)",
            f"  - Target steps: `{options.target_step_count}`",
            f"  - Guidance scale: `{sampling_guidance(model):g}` (guidance is trained in)",
            f"  - Weights: {weights}",
            f"  - Adversarial branch: {'on' if options.adversarial_enabled else 'off'}",
        )
        return "\n".join(lines).strip()

    return info


def _call_parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    """Of the pipeline that the card's code calls: the stock one of the host's name, if there is one."""
    hosts = model.PIPELINE_CLASSES[model.DEFAULT_PIPELINE_TYPE]
    return inspect.signature(getattr(diffusers, hosts.__name__, hosts).__call__).parameters


def _repository(repo_id: str) -> str:
    """With the user's name in front, where the run's settings left it out."""
    from simpletuner.helpers.training.state_tracker import StateTracker

    user = StateTracker.get_hf_username()
    return f"{user}/{repo_id}" if user and "/" not in repo_id else repo_id


def _example(metadata: ModuleType, model: Any, source: str) -> str:
    """A snippet that runs, with diffusers alone where that has a scheduler to run it with."""
    config, options = model.config, options_of(model.config)
    steps, seed = options.target_step_count, config.validation_seed or config.seed or 42
    prompt = config.validation_prompt or "A photo of an astronaut riding a horse on the moon"
    guidance = sampling_guidance(model)
    times = ", ".join(f"{name}={value!r}" for name, value in model.twinflow_model.sampling_times.items())
    own = ("from simpletuner_twinflow import TwinFlowScheduler", f"pipeline.scheduler = TwinFlowScheduler({times})")
    imports, scheduler = ["import torch", "from diffusers import DiffusionPipeline"], []
    stock, asked = stock_scheduler_of(model), f"num_inference_steps={steps}"
    if stock is None:
        ours = type(model.twinflow_model.scheduler())
        imports.append(f"from {ours.__module__} import {ours.__name__}")
        # A flow keeps to the trained levels, whatever shift the base model's scheduler has.
        made = f"({times})" if issubclass(ours, TwinFlowScheduler) else ".from_config(pipeline.scheduler.config)"
        scheduler = [f"pipeline.scheduler = {ours.__name__}{made}"]
        note = "This needs `pip install simpletuner-twinflow`: stock diffusers has no scheduler close to it."
    elif isinstance(stock, LCMScheduler):
        if config.model_type != "full":  # which has no scheduler of its own, and on the hub no folder for one
            imports[1] += ", LCMScheduler"
            scheduler = ["pipeline.scheduler = LCMScheduler(", *_arguments(stock_diffusion_settings(stock)), ")"]
        asked = f"timesteps={stock_timesteps(stock.config, steps)}"
        note = (
            "This needs diffusers alone. The timesteps are the validation's, rounded; `num_inference_steps` instead "
            "asks the network off the levels it was trained for."
        )
    else:
        if config.model_type != "full":  # a pipeline brings its scheduler
            imports[1] += ", FlowMatchEulerDiscreteScheduler"
            scheduler = [f"pipeline.scheduler = FlowMatchEulerDiscreteScheduler({stock_settings(steps)})"]
        note = _difference(model, steps) + "\n\n" + "\n".join(("```python", own[0], "", own[1], "```"))
    films = _films(model)
    if films:
        imports.append("from diffusers.utils import export_to_gif")
    lines = [*imports, "", *_loading(metadata, config, source), *scheduler, f"pipeline.to({DEVICE})", ""]
    if not isinstance(stock, LCMScheduler):  # whose pipelines draw it from the generator
        lines.append(
            f"torch.manual_seed({seed})  # the noise between steps, which stock pipelines take from the global stream"
        )
    lines.append("model_output = pipeline(")
    arguments = [f"prompt={prompt!r}", asked]
    accepted = _call_parameters(model)
    if "guidance_scale" in accepted:
        arguments.append(f"guidance_scale={guidance}")
    arguments += [f"{name}=1.0" for name in sorted(REAL_GUIDANCE & accepted.keys()) if accepted[name].default != 1.0]
    arguments += _prompt_arguments(model)
    arguments += [size.strip(" ,") for size in metadata._validation_resolution(config).splitlines()]
    arguments += [f"{name}={value!r}" for name, value in films.items()]
    arguments.append(f"generator=torch.Generator().manual_seed({seed})")
    lines += [f"    {argument}," for argument in arguments]
    if films:
        lines += [").frames[0]", 'export_to_gif(model_output, "output.gif")']
    else:
        lines += [").images[0]", 'model_output.save("output.png")']
    return "\n".join(("", "```python", *lines, "```", "", note, ""))


def _prompt_arguments(model: Any) -> list[str]:
    """What makes a stock pipeline encode the prompt as the run did: another length is another condition."""
    config, accepted = model.config, _call_parameters(model)
    length = model.twinflow_model.family.prompt_length or config.tokenizer_max_length
    given = {"max_sequence_length": length, "complex_human_instruction": config.sana_complex_human_instruction}
    return [f"{name}={value!r}" for name, value in given.items() if value and name in accepted]


def _films(model: Any) -> dict[str, Any]:
    """The film that the run's validation draws, as arguments of the pipeline; none for a model of pictures."""
    from simpletuner.helpers.models.common import VideoModelFoundation

    if not isinstance(model, VideoModelFoundation):
        return {}
    asked = model.update_pipeline_call_kwargs({"num_inference_steps": 1, "guidance_scale": 0.0})
    length = {name: value for name, value in asked.items() if name in ("num_frames", "frames") and value}
    return length | {"output_type": "pil"}


def _arguments(settings: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as code, a line each."""
    return [f"    {name}={value!r}," for name, value in settings.items()]


def _loading(metadata: ModuleType, config: Any, source: str) -> list[str]:
    dtype = f"torch.{str(config.weight_dtype).removeprefix('torch.')}"
    if config.model_type == "full":
        return [f"pipeline = DiffusionPipeline.from_pretrained({source!r}, torch_dtype={dtype})"]
    local = config.pretrained_model_name_or_path
    base = metadata._model_card_base_model(config) if config.push_to_hub else local
    return [
        f"pipeline = DiffusionPipeline.from_pretrained({base!r}, torch_dtype={dtype})",
        f"pipeline.load_lora_weights({source!r})",
    ]


def _difference(model: Any, steps: int) -> str:
    """What sets the stock scheduler's pictures apart from those of the run's validation."""
    stock = stock_scheduler(steps)
    stock.set_timesteps(steps)
    levels = ", ".join(f"{level:.4g}" for level in stock.sigmas[:-1].tolist())
    trained = ", ".join(f"{level:.4g}" for level in model.twinflow_model.scheduler().step_times(steps))
    other_noise = ", and draws other noise between the steps than the validation did" if steps > 1 else ""
    return (
        f"This needs diffusers alone. Its scheduler asks the network at {levels}, where the model was trained for "
        f"{trained}{other_noise}. For the validation's own pictures: `pip install simpletuner-twinflow`, and before "
        "the call"
    )
