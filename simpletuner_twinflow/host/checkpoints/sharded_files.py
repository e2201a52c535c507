"""Checkpoints of a run whose weights FSDP2 shards: the host's own shards of weights, optimizer and averages.

They hold all that is trained, the time conditioning too, by its place in the network; so a run goes on from them only
where it is sharded again and trains the same. The number of ranks may be another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simpletuner_twinflow.host.checkpoints.ema import EMA_SETTINGS
from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained
from simpletuner_twinflow.host.run import active_options
from simpletuner_twinflow.host.seams import set_on
from simpletuner_twinflow.host.training.sharded import is_deepspeed, is_fsdp2, zero_stage

SHARDS = "pytorch_model_fsdp_0"  # the folder in which Accelerate puts the weights
PARTS = "pytorch_model"  # the folder in which Accelerate has DeepSpeed put all of its own


def refuse_other_layout(folder: Path, manager: Any) -> None:
    """Refuse the files of one engine in a run of another, and whole files where a run's are in parts.

    Args: folder: the checkpoint's; manager: the host's `SaveHookManager`.

    Raises:
        OtherRunError: Names the key, its value, and the way out.
    """
    if (folder / SHARDS).is_dir() != is_fsdp2(manager.accelerator):
        holds = "shards of FSDP2" if (folder / SHARDS).is_dir() else "weights that are not sharded by FSDP2"
        raise OtherRunError(folder, holds, "fsdp_enable", getattr(manager.args, "fsdp_enable", None))
    if (folder / PARTS).is_dir() != is_deepspeed(manager.accelerator):
        holds = "the optimizer in DeepSpeed's parts" if (folder / PARTS).is_dir() else "no files of DeepSpeed"
        stage = zero_stage(manager.accelerator)
        raise OtherRunError(folder, holds, "deepspeed_config", None if stage is None else f"one of ZeRO {stage}")


def refuse_other_shards(folder: Path, run: SavedRun | None, current: Trained, config: Any) -> None:
    """Refuse shards of a run that trained anything else than this one, or in another order.

    Args: folder: the checkpoint's; run: that wrote it, None for a plain one; current: what this run trains.

    Raises:
        OtherRunError: Names what differs, and the way out.
    """
    if run is None or active_options(config) is None:
        holds = f"shards of a run {'without' if run is None else 'with'} TwinFlow"
        raise OtherRunError(folder, holds, "twinflow_enabled", run is None)
    if run.trained != current:
        lists = (run.trained.ema, current.ema)
        odd = sorted(set(lists[0]) ^ set(lists[1]))
        what = f"of other parameters ({', '.join(odd[:3])}, ...)" if odd else "in another order"
        key = (
            "twinflow_time_conditioning" if run.trained.time_conditioning != current.time_conditioning else "model_type"
        )
        raise OtherRunError(folder, f"shards {what}", key, getattr(config, key, None))


@contextmanager
def own_settings(ema: Any, *, keep: bool) -> Iterator[None]:
    """Inside this block averages are loaded, with their step; decay and warm-up stay the run's own where `keep`."""
    settings = {key: getattr(ema, key) for key in EMA_SETTINGS} if keep and ema is not None else {}
    yield
    for key, value in settings.items():
        set_on(ema, key, value)
