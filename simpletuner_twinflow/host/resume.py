"""Resuming: from a checkpoint that was finished, and across a change of what is trained.

With TwinFlow a run trains a few parameters more, the time conditioning. Each checkpoint therefore says which parameters
its optimizer and its EMA cover, by name, and a run that trains others takes what belongs to it: a plain run can be
continued with TwinFlow and a TwinFlow run without. A checkpoint without that list is one of a plain run.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap
from simpletuner_twinflow.optimizer_state import Groups, fit_optimizer_state

STATE_FILE = "twinflow_state.json"

logger = logging.getLogger("simpletuner_twinflow")


@dataclass(frozen=True)
class Trained:
    """The names of what a run trains."""

    conditioning: list[str]  # parameters that TwinFlow has added to the network
    optimizer: list[list[str]]  # by parameter group
    ema: list[str]  # in the order of the shadows; of every trainable parameter, with or without EMA

    @classmethod
    def of(cls, model: Any, optimizer: torch.optim.Optimizer) -> "Trained":
        """What this run trains. Args: model: the host's `ModelFoundation`. optimizer: the run's first."""
        network = model.get_trained_component(unwrap_model=True)
        named = {id(parameter): name for name, parameter in network.named_parameters()}
        adapter = getattr(model, "twinflow_adapter", None)
        modules = adapter.conditioning_modules() if adapter is not None else {}
        conditioning = {id(parameter) for module in modules.values() for parameter in module.parameters()}
        return cls(
            conditioning=[name for key, name in named.items() if key in conditioning],
            optimizer=[
                [
                    named.get(id(parameter), f"other parameter {number}")
                    for number, parameter in enumerate(group["params"])
                ]
                for group in optimizer.param_groups
            ],
            ema=[named[id(parameter)] for parameter in network.parameters() if parameter.requires_grad],
        )

    def without(self, names: list[str]) -> "Trained":
        """The same without the parameters named."""
        left_out = set(names)
        return Trained(
            conditioning=[name for name in self.conditioning if name not in left_out],
            optimizer=[[name for name in group if name not in left_out] for group in self.optimizer],
            ema=[name for name in self.ema if name not in left_out],
        )


def save_trained(model: Any, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write into a checkpoint what its run trains."""
    text = json.dumps(asdict(Trained.of(model, optimizer)), indent=1)
    (folder / STATE_FILE).write_text(text, encoding="utf-8")


def saved_by(folder: Path) -> Trained | None:
    """What the run that wrote this checkpoint trained; None for a plain run."""
    file = folder / STATE_FILE
    return Trained(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


@uses(Seam("Trainer.checkpoint_state_latest", ("output_dir",)))
def attach_to_latest_checkpoint(module: ModuleType) -> None:
    """Resume a TwinFlow run from the latest checkpoint that was finished."""

    def latest(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> str | None:
        found = wrapped(*args, **kwargs)
        if found is None or active_options(trainer.config) is None or trainer.checkpoint_manager is None:
            return found
        # Hosts before the guard file wrote none; then the host's own choice stands.
        whole = trainer.checkpoint_manager.get_latest_checkpoint(require_guard=True)
        if whole is None or whole == found:
            return found
        logger.warning("%s was not finished when its run ended; resuming from %s.", found, whole)
        return whole

    wrap(module, "Trainer.checkpoint_state_latest", latest)


@uses(
    Seam("SaveHookManager.load_model_hook", ("models", "input_dir")),
    Seam("SaveHookManager._load_ema_state", ("checkpoint_dir",)),
    Seam("SaveHookManager._ema_checkpoint_path", ("checkpoint_dir",)),
    Seam("SaveHookManager.EMA_METADATA_KEYS"),
    Seam("load_torch_model"),
)
def attach_to_loading(module: ModuleType) -> None:
    """Load a checkpoint with or without TwinFlow into a run with or without it."""

    def load_model_hook(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(args[1] if len(args) > 1 else kwargs["input_dir"])
        saved, active = saved_by(folder), active_options(manager.args) is not None
        if saved is None and not active:
            return wrapped(*args, **kwargs)
        optimizer, *_ = manager.accelerator._optimizers
        current = Trained.of(manager.model, optimizer)
        if saved is None:
            logger.warning(
                "%s was trained without TwinFlow: its time conditioning starts from zero (%s).",
                folder,
                ", ".join(current.conditioning) or "none in this mode",
            )
            saved = current.without(current.conditioning)
        elif active and (missing := [name for name in current.conditioning if name not in saved.conditioning]):
            logger.warning("%s has no %s: it starts from zero.", folder, ", ".join(missing))
        elif not active:
            logger.warning("%s was trained with TwinFlow; this run goes on without it.", folder)
        _fit_next_state(optimizer.optimizer, saved.optimizer, current.optimizer)
        network = manager.model.get_trained_component(unwrap_model=True)
        with _forgiven(module, {*saved.conditioning} ^ {*current.conditioning}):
            wrapped(*args, **kwargs)
        _load_ema(manager, folder, network, saved, current)
        return None

    def load_ema_state(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(args[0] if args else kwargs["checkpoint_dir"])
        if saved_by(folder) is None and active_options(manager.args) is None:
            wrapped(*args, **kwargs)
        # Otherwise ours follows once the network's own weights are loaded.

    wrap(module, "SaveHookManager.load_model_hook", load_model_hook)
    wrap(module, "SaveHookManager._load_ema_state", load_ema_state)


def _fit_next_state(optimizer: torch.optim.Optimizer, saved: Groups, current: Groups) -> None:
    """Fit the next state that is loaded into the optimizer."""

    def fit(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        handle.remove()
        return fit_optimizer_state(state_dict, saved, current)

    handle = optimizer.register_load_state_dict_pre_hook(fit)


@contextmanager
def _forgiven(module: ModuleType, names: set[str]) -> Iterator[None]:
    """Load full models inside this block without complaint about parameters of these names, missing or unexpected."""
    load_torch_model = module.load_torch_model

    def load(*args: Any, **kwargs: Any) -> Any:
        found = load_torch_model(*args, **kwargs)
        return type(found)(*([key for key in keys if key not in names] for keys in found))

    module.load_torch_model = load
    try:
        yield
    finally:
        module.load_torch_model = load_torch_model


def _load_ema(manager: Any, folder: Path, network: nn.Module, saved: Trained, current: Trained) -> None:
    """Restore the averages on every rank; what was not averaged before starts from its weights as they are now.

    Raises:
        TwinFlowError: The checkpoint's averages are not those of the parameters it names.
        RuntimeError: One of them has another shape than its parameter.
    """
    if manager.ema_model is None:
        return
    file, shadows = Path(manager._ema_checkpoint_path(str(folder))), manager.ema_model.shadow_params
    weights = dict(network.named_parameters())
    averages: Mapping[str, Tensor] = {}
    if file.exists():
        state = torch.load(file, map_location="cpu", weights_only=True)
        found = [value for key, value in state.items() if key.startswith("shadow_params.")]
        if len(found) != len(saved.ema):
            raise TwinFlowError(
                f"{file} holds {len(found)} averages, where those of {len(saved.ema)} parameters were expected: it "
                "belongs to another run. Resume from another checkpoint, or remove the file to start averaging anew."
            )
        averages = dict(zip(saved.ema, found, strict=True))
        for key in manager.EMA_METADATA_KEYS:
            setattr(manager.ema_model, key, state[key])
    else:
        logger.warning("%s has no EMA: the averages start from its weights.", folder)
    for shadow, name in zip(shadows, current.ema, strict=True):
        shadow.data.copy_(averages.get(name, weights[name].detach()))
