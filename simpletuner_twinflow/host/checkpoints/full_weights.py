"""A full fine-tune's weights, loaded by a run that trains other time conditioning than the one that saved them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.checkpoints.saved_run import Trained, saved_by
from simpletuner_twinflow.host.run import active_options, argument
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses, wrap


def is_full(config: Any) -> bool:
    """Whether a configuration, keys without dashes, trains all weights; the host's default."""
    return str(config.get("model_type") or "full") == "full"


@uses(
    Seam("SaveHookManager._load_full_model", ("models", "input_dir")),
    Seam("load_torch_model", touch=Touch.in_block),
    Seam("Accelerator._optimizers", touch=Touch.read, module="accelerate.accelerator"),
    lost="a full fine-tune cannot be resumed with its time conditioning",
    needed_by=is_full,
)
def attach_to_loading(module: ModuleType) -> None:
    """Have the host take no offence at parameters that one of both runs has alone."""

    def load_full_model(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        run = saved_by(Path(argument(args, kwargs, "input_dir", 1)))
        if run is None and active_options(manager.args) is None:
            return wrapped(*args, **kwargs)
        optimizer, *_ = manager.accelerator._optimizers
        current = {*Trained.of(manager.model, optimizer).time_conditioning}
        names = current ^ (set() if run is None else {*run.trained.time_conditioning})
        load_torch_model = vars(module)["load_torch_model"]

        def load(*args: Any, **kwargs: Any) -> Any:
            found = load_torch_model(*args, **kwargs)
            return type(found)(*([key for key in keys if key not in names] for keys in found))

        with changed(module, load_torch_model=load):
            return wrapped(*args, **kwargs)

    wrap(module, "SaveHookManager._load_full_model", load_full_model)
