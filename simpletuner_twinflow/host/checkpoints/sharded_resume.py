"""A checkpoint of a run that FSDP2 or DeepSpeed shares out is looked at before Accelerate loads any of it.

Accelerate loads their weights and optimizers before the host's own hook, in which all other checkpoints are looked at.
What it raises at a damaged shard is no `Exception`, so that the host would not go on from the checkpoint before it
either.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.checkpoints.deepspeed_files import refuse_before_loading
from simpletuner_twinflow.host.checkpoints.resume import deletion_logged, refuse_damaged
from simpletuner_twinflow.host.run import argument, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses
from simpletuner_twinflow.host.training.sharded import is_deepspeed, is_fsdp2


@uses(
    Seam("Trainer.init_resume_checkpoint", ("self",)),
    Seam("Accelerator.load_state", ("input_dir",), Touch.in_block, "accelerate.accelerator"),
)
def look_before_parts_load(module: ModuleType) -> None:
    """Look at a checkpoint before Accelerate loads it, where FSDP2 or DeepSpeed shares out what the run trains."""

    def init_resume_checkpoint(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        accelerator = trainer.accelerator
        if not (is_fsdp2(accelerator) or is_deepspeed(accelerator)):
            return wrapped(*args, **kwargs)
        load = accelerator.load_state

        def load_state(*given: Any, **named: Any) -> Any:
            folder = Path(argument(given, named, "input_dir"))
            with deletion_logged(trainer.config, accelerator):
                if is_deepspeed(accelerator):
                    refuse_before_loading(folder, trainer)
                else:  # all else is asked in the host's hook, as of whole files
                    refuse_damaged(folder, trainer.config, accelerator)
            return load(*given, **named)

        with changed(accelerator, load_state=load_state):
            return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer.init_resume_checkpoint", init_resume_checkpoint)
