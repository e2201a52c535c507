"""The run that wrote a checkpoint, from a file in it: which parameters it trained, and with which settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow.host.checkpoints.files import STATE_FILE, CheckpointError
from simpletuner_twinflow.host.run import options_of
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.training.compiled import named_parameters
from simpletuner_twinflow.host.training.lycoris import trained_parameters
from simpletuner_twinflow.options import PREFIX

# The host's keys that shape TwinFlow's training: the average that teaches, what is dropped, and how roles are drawn.
HOST_KEYS = (
    "ema_decay",
    "ema_update_interval",
    "lora_dropout",
    "caption_dropout_probability",
    "train_batch_size",
    "gradient_accumulation_steps",
    "seed",
)


@dataclass(frozen=True)
class Trained:
    """The names of what a run trains."""

    time_conditioning: list[str]  # parameters that TwinFlow has added to the network
    optimizer: list[list[str]]  # by parameter group
    ema: list[str]  # in the order of the shadows; of every trainable parameter, with or without EMA

    @classmethod
    def of(cls, model: Any, optimizer: torch.optim.Optimizer) -> "Trained":
        """What this run trains. Args: model: the host's `ModelFoundation`. optimizer: the run's first."""
        parameters = named_parameters(model.get_trained_component(unwrap_model=True))
        names = {id(parameter): name for name, parameter in parameters.items()}
        family_model = getattr(model, "twinflow_model", None)
        ours = family_model.time_conditioning_parameters() if family_model is not None else {}
        return cls(
            time_conditioning=[name for name in parameters if name in ours],
            optimizer=[
                [names.get(id(each), f"other parameter {number}") for number, each in enumerate(group["params"])]
                for group in optimizer.param_groups
            ],
            ema=[*trained_parameters(model)],
        )

    def without(self, names: list[str]) -> "Trained":
        """The same without the parameters named."""

        def kept(every: list[str]) -> list[str]:
            return [name for name in every if name not in {*names}]

        return Trained(kept(self.time_conditioning), [kept(group) for group in self.optimizer], kept(self.ema))


@dataclass(frozen=True)
class SavedRun:
    """The run that wrote a checkpoint."""

    plugin_version: str
    trained: Trained
    settings: Mapping[str, Any]  # by key, as they stand in a config

    def changes(self, config: Any, processes: int) -> list[str]:
        """What differs in a run with this configuration, as "key old -> new"."""
        before, now = self.settings, settings_of(config, processes)
        changed = (key for key in {**before, **now} if before.get(key) != now.get(key))
        return [f"{key} {json.dumps(before.get(key))} -> {json.dumps(now.get(key))}" for key in changed]


def settings_of(config: Any, processes: int) -> dict[str, Any]:
    """A run's settings that shape its training, in JSON's types."""
    own = {PREFIX + name: value for name, value in settled(options_of(config), config.model_type)}
    host = {key: getattr(config, key, None) for key in HOST_KEYS}
    # Without it there is none, as in the checkpoints of a version that did not know it.
    size = getattr(config, "context_parallel_size", None) or 1
    shared = {"context_parallel_size": size} if size > 1 else {}
    return json.loads(json.dumps(own | host | shared | {"processes": processes}, default=str))


def save_run(model: Any, optimizer: torch.optim.Optimizer, processes: int, folder: Path) -> None:
    """Write into a checkpoint what its run trains, and how."""
    run = SavedRun(version(DISTRIBUTION), Trained.of(model, optimizer), settings_of(model.config, processes))
    file = folder / STATE_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(run), indent=1), encoding="utf-8")


def saved_by(folder: Path) -> SavedRun | None:
    """The run that wrote this checkpoint; None for a plain run.

    Raises:
        CheckpointError: The file that says so is damaged.
    """
    file = folder / STATE_FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        run = SavedRun(**content | {"trained": Trained(**content["trained"])})
        listed = all(isinstance(names, list) for names in vars(run.trained).values())
        if not listed or not isinstance(run.settings, dict):
            raise ValueError("it lists no parameters or no settings")
        return run
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(file, f"is damaged ({error})") from error
