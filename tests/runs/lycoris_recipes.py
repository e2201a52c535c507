"""Runs with a LyCORIS adapter, plain and as TwinFlow."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from testbed.trainer import without_twinflow
from tests.runs.harness import SEED, TINY, Host, Runs
from tests.runs.observer.probes.training_step import note_each_step
from tests.runs.run import Run

LOKR = {
    "algo": "lokr",
    "multiplier": 1.0,
    "linear_dim": 16,
    "linear_alpha": 1,
    "factor": 4,
    "apply_preset": {"target_module": ["Attention", "FeedForward"]},
}
ROWS = {"train_batch_size": 4, "gradient_accumulation_steps": 2}
PICTURES = {"ema_validation": "ema_only", "validation_steps": 4}
RESUMED = {"resume_from_checkpoint": "latest"}


class LycorisRuns(NamedTuple):
    """Each of these has its checkpoints 2 and 4."""

    plain: Run  # two steps
    whole: Run  # four steps as TwinFlow
    kept: Path  # what it wrote
    resumed: Run  # the same from its checkpoint 2 on
    turned_on: Run  # the plain run, continued as TwinFlow
    turned_off: Run  # and that one without


def lycoris(host: Host, runs: Runs) -> LycorisRuns:
    """LoKr, with everything on."""
    file = host.folder / "lokr.json"
    file.write_text(json.dumps(LOKR), encoding="utf-8")
    adapter = {"lora_type": "lycoris", "lycoris_config": str(file)}
    plain = without_twinflow(SEED) | TINY | ROWS | adapter | {"validation_disable": True}
    everything = SEED | TINY | ROWS | adapter | PICTURES | {"twinflow_adversarial_enabled": True}
    before = host.train("lycoris_plain", plain | {"max_train_steps": 2})
    whole = host.train("lycoris", everything, probe=note_each_step)
    kept = whole.folder / "kept"
    shutil.copytree(whole.output, kept)
    shutil.rmtree(whole.output / "checkpoint-4")
    return LycorisRuns(
        before,
        whole,
        kept,
        host.train("lycoris", everything | RESUMED),
        host.train("lycoris_plain", everything | RESUMED),
        host.train("lycoris_plain", plain | RESUMED | {"max_train_steps": 6}),
    )


LYCORIS_RECIPES = {"lycoris": lycoris}
