"""The model card of a TwinFlow run: what was trained, what was exported, and code that draws with it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from diffusers import LCMScheduler

from simpletuner_twinflow.host.checkpoints.card_reader import reader_of
from simpletuner_twinflow.host.checkpoints.export import stock_scheduler_of
from simpletuner_twinflow.host.checkpoints.other_programs import size_of
from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE
from simpletuner_twinflow.host.checkpoints.song_card import song_example
from simpletuner_twinflow.host.drawing.cosmos3 import worded
from simpletuner_twinflow.host.drawing.validation import REAL_GUIDANCE, sampling_guidance
from simpletuner_twinflow.host.run import active_options, argument, exported_weights, options_of
from simpletuner_twinflow.host.seams import MODELS, STATE, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.training.lycoris import lycoris_of
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.pipelines import without_further_guidance
from simpletuner_twinflow.sampling.stock import (
    stock_diffusion_settings,
    stock_settings,
    stock_timesteps,
)

NEEDS_PLUGIN = "This needs `pip install simpletuner-twinflow`: stock diffusers has no scheduler close to it."
STOCK_ALONE = "This needs diffusers alone, and draws the pictures of the run's validation, to rounding."
OTHER_PROMPTS = (
    "This needs diffusers alone. The pictures are not quite those of the run's validation: SimpleTuner normalises this "
    "model's prompts once more than diffusers does."
)
ROUNDED_TIMES = (
    "This needs diffusers alone. The timesteps are the validation's, rounded; `num_inference_steps` instead asks the "
    "network off the sigmas that it was trained at."
)

DTYPE = "Before diffusers 0.40 `dtype` is called `torch_dtype`."


@uses(
    Seam("save_model_card", ("model", "repo_folder")),
    Seam("_model_card_base_model", ("args",), Touch.read),
    Seam("ModelFoundation.VALIDATION_SCHEDULER_NAME", touch=Touch.given, module=MODELS),
    Seam("ImageModelFoundation.custom_model_card_training_mode_info", ("args",), Touch.in_block, MODELS),
    Seam("ImageModelFoundation.custom_model_card_code_example", ("repo_id",), Touch.in_block, MODELS),
    Seam("AudioModelFoundation.custom_model_card_training_mode_info", touch=Touch.given, module=MODELS),
    Seam("AudioModelFoundation.custom_model_card_code_example", touch=Touch.given, module=MODELS),
    Seam("ModelFoundation.update_pipeline_call_kwargs", ("pipeline_kwargs",), Touch.read, MODELS),
    Seam("ModelFoundation.convert_prompts_to_json", ("text_batch",), Touch.read, MODELS),
    Seam("VideoModelFoundation", touch=Touch.read, module=MODELS),
    Seam("StateTracker.get_hf_username", touch=Touch.read, module=STATE),
    Seam("config.validation_num_inference_steps", touch=Touch.in_block),
    Seam("config.validation_guidance", touch=Touch.in_block),
    Seam("config.framerate", touch=Touch.in_block),
    lost="the model card says nothing of TwinFlow",
)
def describe_twinflow(module: ModuleType) -> None:
    """Have the host's card say how a TwinFlow run was validated, what it exported, and how to draw with that."""

    def save_model_card(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> None:
        model = argument(args, kwargs, "model")
        options = active_options(model.config)
        if options is None or "repo_folder" not in kwargs:
            return wrapped(*args, **kwargs)
        output, folder = Path(model.config.output_dir), Path(kwargs["repo_folder"])
        final = folder in (output, output / "pipeline")
        own = {
            "VALIDATION_SCHEDULER_NAME": _sampler_of(model),
            "custom_model_card_training_mode_info": _with_summary(model, final),
        }
        # A checkpoint's card keeps the host's code: what lies there is for resuming.
        if final:
            own["custom_model_card_code_example"] = lambda repo_id=None: _example(
                module, model, _repository(repo_id) if model.config.push_to_hub else str(folder)
            )
        settings: dict[str, Any] = {
            "validation_num_inference_steps": options.target_step_count,
            "validation_guidance": sampling_guidance(model),
        }
        if isinstance(rate := getattr(model.config, "framerate", None), str | None):
            settings["framerate"] = int(float(rate or 24))  # otherwise the card's films fail, and the card with them
        with changed(model, **own), changed(model.config, **settings):
            return wrapped(*args, **kwargs)

    wrap(module, "save_model_card", save_model_card)


def _sampler_of(model: Any) -> str:
    """What the run is validated with, in a word."""
    by_itself = model.twinflow_model.family.stepped_by != "scheduler"
    return "Euler" if by_itself else type(model.twinflow_model.scheduler()).__name__


def _with_summary(model: Any, final: bool) -> Callable[[Any], str]:
    options = options_of(model.config)
    family_info = getattr(model, "custom_model_card_training_mode_info", lambda config: "")  # not each has it
    exported = "EMA" if exported_weights(model.config) == "ema" else "student"

    def info(config: Any) -> str:
        trained_in = f"a scale of {options.scale:g} is trained in" if options.scale > 1 else "none is trained in"
        lines = (
            family_info(config),
            "- TwinFlow: few-step model, [arXiv:2512.05150](https://arxiv.org/abs/2512.05150)",
            f"  - Target steps: `{options.target_step_count}`",
            f"  - Guidance scale: `{sampling_guidance(model):g}` ({trained_in})",
            f"  - Weights: {exported if final else "a checkpoint's, to resume from"}",
            f"  - Adversarial branch: {'on' if options.adversarial_enabled else 'off'}",
        )
        return "\n".join(lines).strip()

    return info


def _repository(repo_id: str) -> str:
    """With the user's name in front, where the run's settings left it out."""
    from simpletuner.helpers.training.state_tracker import StateTracker

    user = StateTracker.get_hf_username()
    return f"{user}/{repo_id}" if user and "/" not in repo_id else repo_id


def _example(metadata: ModuleType, model: Any, source: str) -> str:
    """Code that draws with what the run exports, with diffusers alone where that has a scheduler for it."""
    config, steps = model.config, options_of(model.config).target_step_count
    full, seed = config.model_type == "full", config.validation_seed or config.seed or 42
    base = metadata._model_card_base_model(config) if config.push_to_hub else config.pretrained_model_name_or_path
    if model.twinflow_model.family.sings:
        return song_example(model, base, source)
    dtype = str(config.weight_dtype).removeprefix("torch.")
    width, height = size_of(config.validation_resolution)
    read, pixels = source if full else base, width * height
    imports = ["import torch", "from diffusers import DiffusionPipeline"]
    loading = [f"pipeline = DiffusionPipeline.from_pretrained({read!r}, dtype=torch.{dtype})"]
    if (reader := reader_of(model, read, dtype, source, pixels)) is not None:
        imports, loading = ["import torch", *reader.imports], [*reader.loading]
    lycoris = lycoris_of(model) is not None
    if lycoris:
        imports.append("from lycoris import create_lycoris_from_weights")
        file = repr(f"{source}/{ADAPTER_FILE}")
        if config.push_to_hub:
            imports.append("from huggingface_hub import hf_hub_download")
            file = f"hf_hub_download({source!r}, {ADAPTER_FILE!r})"
        network = f"pipeline.{model.MODEL_TYPE.value}"
        loading.append(f"adapter, _ = create_lycoris_from_weights(1.0, {file}, {network})\nadapter.merge_to()")
    elif not full:
        loading += reader.adapter if reader and reader.adapter else [f"pipeline.load_lora_weights({source!r})"]

    stock, asked = stock_scheduler_of(model), f"num_inference_steps={steps}"
    times = ", ".join(f"{name}={value!r}" for name, value in model.twinflow_model.sampling_times.items())
    if reader is not None and reader.note is not None:
        note = reader.note
    elif stock is None:
        ours, note = type(model.twinflow_model.scheduler()), NEEDS_PLUGIN
        imports.append(f"from {ours.__module__} import {ours.__name__}")
        # A flow keeps to the trained sigmas, whatever shift the base model's scheduler has.
        made = f"({times})" if issubclass(ours, TwinFlowScheduler) else ".from_config(pipeline.scheduler.config)"
        loading.append(f"pipeline.scheduler = {ours.__name__}{made}")
    else:
        if isinstance(stock, LCMScheduler):  # the noise between its steps comes from the call's generator
            asked, note = f"timesteps={stock_timesteps(stock.config, steps)}", ROUNDED_TIMES
            lines = (f"    {name}={value!r},\n" for name, value in stock_diffusion_settings(stock).items())
            settings = "\n" + "".join(lines)
        else:
            note = OTHER_PROMPTS if normalises_prompts_twice(model) else STOCK_ALONE
            settings = stock_settings(stock)
        if not full:  # a full model's pipeline brings its scheduler
            place = next(place for place, line in enumerate(imports) if line.startswith("from diffusers import"))
            imports[place] += f", {type(stock).__name__}"
            loading.append(f"pipeline.scheduler = {type(stock).__name__}({settings})")

    if lycoris:
        note = note.replace("needs diffusers alone", "needs diffusers and lycoris-lora alone")
    prompt = config.validation_prompt or "A photo of an astronaut riding a horse on the moon"
    given: dict[str, Any] = {"prompt": model.convert_prompts_to_json([prompt])[0]}
    picture: list[str] = []
    if sized := model.twinflow_model.family.prompt_has_size:
        imports.append("from diffusers.pipelines.cosmos import pipeline_cosmos3_omni")
        code, given, picture = worded(model, prompt, width=width, height=height)
        loading += code
        imports += ["from diffusers.utils import load_image"] if picture else []
    arguments = [*(f"{name}={value!r}" for name, value in given.items()), asked, *_call_arguments(model)]
    arguments += [f"width={width}", f"height={height}"]
    arguments += reader.arguments if reader else ()
    images, save = "images[0]", 'model_output.save("output.png")'
    if film := [] if sized else _film_arguments(model):
        images = "frames[0]"
    elif sized:
        images = "video[0]" if given["num_frames"] == 1 else "video"
    if images in ("frames[0]", "video"):
        imports.append("from diffusers.utils import export_to_gif")
        save = 'export_to_gif(model_output, "output.gif")'
    arguments += [*film, *picture, f"generator=torch.Generator().manual_seed({seed})"]
    return f"""
```python
{"\n".join(imports)}

{"\n".join(loading)}
pipeline.to("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")

model_output = pipeline(
    {",\n    ".join(arguments)},
).{images}
{save}
```

{note} {DTYPE}
"""


def normalises_prompts_twice(model: Any) -> bool:
    """Whether this is LTX-Video 2.3 or 2.5: their connectors normalise each token, and the host all of a prompt first.

    With LTX-Video 2.0, whose connectors do what the host does, the second time changes nothing.
    """
    connectors = getattr(model, "connectors", None)
    return connectors is not None and bool(connectors.config.per_modality_projections)


def _call_arguments(model: Any) -> list[str]:
    """Guidance and prompt as in training, as far as the pipeline takes them: stock diffusers', else the host's."""
    config, host_class = model.config, model.PIPELINE_CLASSES[model.DEFAULT_PIPELINE_TYPE]
    accepted = inspect.signature(getattr(diffusers, host_class.__name__, host_class).__call__).parameters
    given = {"guidance_scale": sampling_guidance(model)}
    given |= without_further_guidance(accepted)
    given |= {name: 1.0 for name in sorted(REAL_GUIDANCE & accepted.keys()) if accepted[name].default != 1.0}
    if length := model.twinflow_model.family.prompt_length or config.tokenizer_max_length:
        given["max_sequence_length"] = length
    if instruction := config.sana_complex_human_instruction:
        given["complex_human_instruction"] = instruction
    return [f"{name}={value!r}" for name, value in given.items() if name in accepted]


def _film_arguments(model: Any) -> list[str]:
    """The length of the film that the run's validation draws; empty for a model of pictures."""
    from simpletuner.helpers.models.common import VideoModelFoundation

    if not isinstance(model, VideoModelFoundation):
        return []
    asked = model.update_pipeline_call_kwargs({"num_inference_steps": 1, "guidance_scale": 0.0})
    length = [f"{name}={value!r}" for name, value in asked.items() if name in ("num_frames", "frames") and value]
    # A network that knows its frames' places in seconds is drawn with at the rate that it is trained at.
    if "frame_rate" in asked:
        length.append(f"frame_rate={asked['frame_rate']!r}")
    return [*length, "output_type='pil'"]
