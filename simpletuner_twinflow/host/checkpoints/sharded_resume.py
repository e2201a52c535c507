"""A damaged checkpoint of a run that FSDP2 shards is refused before Accelerate loads its weights and optimizer.

Accelerate loads shards before the host's own hook, in which all other checkpoints are looked at. What it raises at a
damaged one is no `Exception`, so that the host would not go on from the checkpoint before it either.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.checkpoints.resume import deletion_logged, refuse_damaged
from simpletuner_twinflow.host.run import argument, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses
from simpletuner_twinflow.host.training.sharded import is_fsdp2


@uses(
    Seam("Trainer.init_resume_checkpoint", ("self",)),
    Seam("Accelerator.load_state", ("input_dir",), Touch.in_block, "accelerate.accelerator"),
    lost="a damaged checkpoint of FSDP2 ends the run with torch's own error, which may not name the file",
)
def look_before_shards_load(module: ModuleType) -> None:
    """Look at a checkpoint's files before Accelerate loads it, where the run is sharded by FSDP2."""

    def init_resume_checkpoint(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        accelerator, config = trainer.accelerator, trainer.config
        if not is_fsdp2(accelerator):
            return wrapped(*args, **kwargs)
        load = accelerator.load_state

        def load_state(*given: Any, **named: Any) -> Any:
            with deletion_logged(config, accelerator):
                refuse_damaged(Path(argument(given, named, "input_dir")), config, accelerator)
            return load(*given, **named)

        with changed(accelerator, load_state=load_state):
            return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer.init_resume_checkpoint", init_resume_checkpoint)
