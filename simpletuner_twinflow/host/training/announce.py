"""What a TwinFlow run says of itself before its first step, in the log and in the trackers' configuration."""

import json
import logging
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow.comparison.quality_files import FOLDER, RUN_FILE
from simpletuner_twinflow.host.run import exported_weights
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.settings.memory import size
from simpletuner_twinflow.host.settings.summary import MORE_LAYERS, Processes, block, recorded, summary
from simpletuner_twinflow.host.training.auxiliary import PROJECTORS
from simpletuner_twinflow.host.training.lycoris import IN_NETWORK, lycoris_of
from simpletuner_twinflow.host.training.time_conditioning import TIME_CONDITIONING
from simpletuner_twinflow.host.training.trainer import distiller_of

logger = logging.getLogger("simpletuner_twinflow")
RESUMED = "twinflow_resumed"  # of the accelerator: the line about the checkpoint that the run goes on from


@uses(
    Seam("Trainer.init_trackers", ("self",)),
    Seam("Trainer._trackers_initialized", touch=Touch.read),
    Seam("Trainer.ema_model", touch=Touch.read),
    Seam("Accelerator.init_trackers", ("config",), Touch.in_block, "accelerate.accelerator"),
    lost="what the run does and costs is neither logged at its start nor recorded with it",
)
def attach_to_start(module: ModuleType) -> None:
    """Log a block of lines once all is loaded, and add the numbers in it to the recorded configuration."""

    def init_trackers(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        distiller, accelerator = distiller_of(trainer), trainer.accelerator
        if distiller is None or getattr(trainer, "_trackers_initialized", False) or not accelerator.is_main_process:
            wrapped(*args, **kwargs)
            return
        logger.info(said_at_start(trainer))
        more: dict[str, Any] = {"twinflow/plugin_version": _version()}
        more |= recorded(distiller.options, trainer.config, own_steps=bool(distiller.sampler_steps))
        init = accelerator.init_trackers

        def init_with_more(project_name: str, config: dict | None = None, **more_kwargs: Any) -> Any:
            return init(project_name, config=(config or {}) | more, **more_kwargs)

        record(Path(trainer.config.output_dir), more)
        with changed(accelerator, init_trackers=init_with_more):
            wrapped(*args, **kwargs)

    wrap(module, "Trainer.init_trackers", init_trackers)


def said_at_start(trainer: Any) -> str:
    """The block of lines. Args: trainer: the host's, all loaded, a checkpoint resumed if there is one."""
    distiller, config = trainer.distiller, trainer.config
    model, own_steps = distiller.family_model, bool(distiller.sampler_steps)
    groups = distiller.replica
    processes = Processes(groups.ranks * groups.size, groups.size)
    entries = summary(distiller.options, config, model.step_times, own_steps=own_steps, processes=processes)
    shadows = [] if trainer.ema_model is None else list(trainer.ema_model.shadow_params)
    if shadows:
        dtypes = ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in shadows}))
        entries["teacher"] += f", {dtypes} on {shadows[0].device}"
    kept = distiller.base.kept() if distiller.base is not None else []
    parts = {
        "EMA": shadows,
        "the base's first weights": kept,
        "time conditioning": model.time_conditioning_parameters().values(),
    }
    sizes = {name: _bytes(tensors) for name, tensors in parts.items()}
    entries["memory"] = ", ".join(f"{name} {size(count)}" for name, count in sizes.items() if count) or "none"
    entries["memory"] += " beyond plain training without EMA"
    file = "pytorch_lora_weights.safetensors" if config.model_type == "lora" else "pipeline"
    weights = {"ema": "the EMA's", "student": "the student's"}[exported_weights(config)]
    entries["adapts"] = adapted(model.model.get_trained_component(unwrap_model=True), lycoris_of(model.model))
    entries["results"] = f"{weights} weights in {Path(config.output_dir) / file}, {_trackers(config)}"
    entries["resumes"] = getattr(trainer.accelerator, RESUMED, "")
    return block(f"TwinFlow {_version()} is on; this run", entries)


def adapted(network: torch.nn.Module, lycoris: Any | None = None) -> str:
    """Which of a network's linear layers carry an adapter, of PEFT or the LyCORIS network; "" where none does."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes ten seconds, for which `doctor` would wait

    named = dict(network.named_modules())
    adapters = {name for name, module in named.items() if isinstance(module, BaseTunerLayer)}
    if lycoris is not None:
        changed_layers = {id(layer.org_module[0]) for layer in lycoris.loras}
        adapters = {name for name, module in named.items() if id(module) in changed_layers}
    if not adapters:
        return ""
    linear = [name for name, module in named.items() if isinstance(module, torch.nn.Linear)]
    added = PROJECTORS | {*TIME_CONDITIONING, IN_NETWORK}
    layers = {
        name.removesuffix(".base_layer") for name in linear if ".lora_" not in name and not added & {*name.split(".")}
    }
    kinds = sorted({re.sub(r"^.*\.(?=\D)", "", name) for name in adapters})
    said = f"{len(adapters & layers)} of {len(layers)} linear layers ({', '.join(kinds)})"
    few = len(adapters & layers) < len(layers) / 2
    return f"{said}; {MORE_LAYERS}" if few else said


def record(output: Path, values: dict[str, Any]) -> None:
    """Leave what the trackers are told in the output folder, too, for `simpletuner-twinflow compare`."""
    folder = output / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        logger.warning(
            "%s could not be written, which `simpletuner-twinflow compare` reads: %s", folder / RUN_FILE, error
        )


def _trackers(config: Any) -> str:
    return "no tracker (report_to none)" if config.report_to in (None, "none") else f"twinflow/* in {config.report_to}"


def _version() -> str:
    return version(DISTRIBUTION)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
