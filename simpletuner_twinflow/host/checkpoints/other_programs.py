"""What a final adapter says to programs that are not diffusers: a file's header, and a workflow for ComfyUI."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE
from simpletuner_twinflow.host.drawing.validation import sampling_guidance
from simpletuner_twinflow.host.run import exported_weights, options_of
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES
from simpletuner_twinflow.sampling.comfyui import comfyui_sigmas, why_not, workflow, written

logger = logging.getLogger("simpletuner_twinflow")

WORKFLOW_FILE = "comfyui_workflow.json"
# Of the listing in Stability AI's ModelSpec; for other families the host's name and flavour.
_ARCHITECTURES = {"sdxl": "stable-diffusion-xl-v1-base"}


def flavour_of(model: Any) -> str:
    """The flavour of a run's `ModelFoundation`: named, or that of its files on the hub, or the family's default."""
    path = model.config.pretrained_model_name_or_path
    of_path = [flavour for flavour, files in model.HUGGINGFACE_PATHS.items() if files == path]
    return str(model.config.model_flavour or (of_path or [model.DEFAULT_MODEL_FLAVOUR])[0] or "")


def lora_format_of(model: Any) -> str:
    """The form in which the host writes the run's adapter: "diffusers" or "comfyui"."""
    return str(model.config.lora_format or "diffusers").lower()


def say_whether_comfyui_reads(model: Any) -> None:
    """Log at the start of a run why there will be no workflow, if so: another `lora_format` may be the way out."""
    if reason := why_not(model.config.model_family, flavour_of(model), lora_format_of(model)):
        logger.info(f"No ComfyUI workflow will lie beside the adapter: {reason}.")


def describe_for_other_programs(model: Any, folder: Path) -> None:
    """Add to the final adapter in `folder` its steps, and put a workflow for ComfyUI beside it where there is one."""
    add_to_header(folder / ADAPTER_FILE, header(model))
    if why_not(model.config.model_family, flavour_of(model), lora_format_of(model)) is None:
        text = json.dumps(workflow_of(model), indent=2, ensure_ascii=False)
        (folder / WORKFLOW_FILE).write_text(text + "\n", encoding="utf-8")


def header(model: Any) -> dict[str, str]:
    """What the adapter's file says of itself: ModelSpec's required keys, and how to draw with it.

    Nothing in it changes from run to run of the same configuration: no date, no path.
    """
    config, options, comfyui = model.config, options_of(model.config), lora_format_of(model) == "comfyui"
    family, flavour, steps = config.model_family, flavour_of(model), options.target_step_count
    named = f"{family} {flavour}".strip()
    sampler, sigmas = sampler_of(model), written(flow_sigmas(model))
    once = "step" if steps == 1 else "steps"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _ARCHITECTURES.get(family, named.replace(" ", "-")) + "/lora",
        "modelspec.implementation": "https://github.com/comfyanonymous/ComfyUI" if comfyui else "diffusers",
        "modelspec.title": f"TwinFlow LoRA of {named} for {steps} {once}",
        "modelspec.usage_hint": f"{steps} {once}, CFG scale 1, sampler {sampler}, sigmas {sigmas}",
        "twinflow.steps": str(steps),
        "twinflow.cfg_scale": "1",
        "twinflow.guidance_scale": f"{sampling_guidance(model):g}",
        "twinflow.sampler": sampler,
        "twinflow.sigmas": sigmas,
        "twinflow.weights": exported_weights(config),
    }


def sampler_of(model: Any) -> str:
    """The sampler's name in ComfyUI and stable-diffusion.cpp: of own steps, or of jumps that are noised anew."""
    return "euler" if model.twinflow_model.steps_are_conditioned else "lcm"


def flow_sigmas(model: Any) -> list[float]:
    """The run's sigmas down to 0, as those programs count them (`comfyui_sigmas`)."""
    diffusion = model.config.model_family in DIFFUSION_FAMILIES
    if not diffusion:
        return comfyui_sigmas(model.twinflow_model.step_times, diffusion=False)
    scheduler = model.twinflow_model.scheduler()
    scheduler.set_timesteps(options_of(model.config).target_step_count)
    # The network is called at times of its own schedule, which begins below pure noise.
    return comfyui_sigmas(scheduler.path.sigma(scheduler.timesteps).tolist(), diffusion=True)


def workflow_of(model: Any) -> dict[str, Any]:
    """ComfyUI's workflow of the run's adapter, with the prompt, size and seed of its validation."""
    config = model.config
    network = model.get_trained_component(unwrap_model=True)
    embeds = model.twinflow_model.family.embeds_guidance and network.config.get("guidance_embeds")
    return workflow(
        config.model_family,
        lora=ADAPTER_FILE,
        sigmas=flow_sigmas(model),
        sampler=sampler_of(model),
        flavour=flavour_of(model),
        prompt=config.validation_prompt or "",
        size=size_of(config.validation_resolution),
        seed=int(config.validation_seed or config.seed or 42),
        embedded_guidance=sampling_guidance(model) if embeds else None,
    )


def size_of(resolution: Any) -> tuple[int, int]:
    """Width and height of the first of the validation's sizes: "1024", "1024x768", or several with commas."""
    numbers = [int(float(number)) for number in re.findall(r"\d+(?:\.\d+)?", str(resolution).split(",")[0])] or [1024]
    return numbers[0], numbers[-1]


def add_to_header(file: Path, added: dict[str, str]) -> None:
    """Add these entries to the metadata of a safetensors file, and leave its tensors as they are.

    The format: eight bytes with the header's length, the header as JSON, the tensors' bytes with offsets from there.
    """
    changed = file.with_suffix(".tmp")
    with file.open("rb") as old, changed.open("wb") as new:
        entries = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        # Sorted, since safetensors writes them in another order each time.
        entries["__metadata__"] = dict(sorted((entries.get("__metadata__", {}) | added).items()))
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight, as safetensors itself writes them
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)
    changed.replace(file)
