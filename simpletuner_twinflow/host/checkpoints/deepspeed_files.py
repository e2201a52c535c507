"""Checkpoints of a run with DeepSpeed's ZeRO 1 or 2: its own files of weights and of each rank's part of the optimizer.

DeepSpeed loads them before the host asks anybody, so what a run cannot go on from is refused before that, see
`sharded_resume`. Averages are the host's file, as without DeepSpeed.
"""

from pathlib import Path
from typing import Any

from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError, refuse_other_run
from simpletuner_twinflow.host.checkpoints.resume import refuse_damaged
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained, saved_by
from simpletuner_twinflow.host.checkpoints.sharded_files import refuse_other_layout, refuse_other_shards


def refuse_before_loading(folder: Path, trainer: Any) -> None:
    """Refuse a checkpoint that is damaged or of another run.

    Args: folder: the checkpoint's; trainer: the host's, of a TwinFlow run with DeepSpeed.

    Raises:
        TwinFlowError: Names what is wrong, and the way out.
    """
    manager, accelerator = trainer.model_hooks, trainer.accelerator
    refuse_damaged(folder, trainer.config, accelerator)
    refuse_other_run(folder, trainer.model)
    refuse_other_layout(folder, manager)
    run = saved_by(folder)
    refuse_other_shards(folder, run, Trained.of(trainer.model, trainer.optimizer), trainer.config)
    refuse_other_ranks(folder, run, accelerator.num_processes)


def refuse_other_ranks(folder: Path, run: SavedRun | None, processes: int) -> None:
    """Refuse parts of an optimizer that another number of ranks have written: DeepSpeed loads each rank's own alone.

    Raises:
        OtherRunError: Names both numbers.
    """
    before = None if run is None else run.settings.get("processes")
    if before is not None and before != processes:
        holds = f"the optimizer's parts of {before} processes"
        raise OtherRunError(folder, holds, "the number of processes", processes)
