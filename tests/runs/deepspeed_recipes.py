"""Runs with DeepSpeed's ZeRO 1 and 2 on two ranks, and the same run by DDP; `make deepspeed` brings DeepSpeed."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes import deepspeed
from tests.runs.resume_recipes import RESUMED
from tests.runs.run import Run

# DeepSpeed clips by the norm and decays no biases; the rest of AdamW is alike.
ALIKE = {"optimizer_config": "weight_decay=0.0", "grad_clip_method": "norm", "max_grad_norm": 1.0}
ROWS = {"train_batch_size": 4, "gradient_accumulation_steps": 2}
CONFIG = SEED | TINY | FULL | ALIKE | ROWS
CONFIG |= {"twinflow_adversarial_enabled": True, "optimizer": "torch-adamw", "validation_disable": True}
RATE = TINY["learning_rate"]


class Compared(NamedTuple):
    """The same full fine-tune by several engines, a run a rank."""

    by_ddp: list[Run]
    first: dict[int, list[Run]]  # by stage of ZeRO
    kept: dict[int, Path]  # its output
    resumed: dict[int, list[Run]]  # the last two steps again, from the checkpoint before
    on_ddp: list[Run]  # a run with DeepSpeed that is to go on from DDP's checkpoint


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings: torch's AdamW, since its own would be compiled first, at the same rate in every step."""
    adam = {"lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "torch_adam": True}
    warmup = {"warmup_min_lr": RATE, "warmup_max_lr": RATE, "warmup_num_steps": 1}
    return {
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": adam},
        "scheduler": {"type": "WarmupLR", "params": warmup},
        "gradient_clipping": ALIKE["max_grad_norm"],
    }


def by_deepspeed(host: Host, runs: Runs) -> Compared:
    """All of them, on latents that are encoded already, since encoding moves random streams."""
    folder = host.folder / "deepspeed"
    folder.mkdir()
    host = Host(folder, packages=Path(os.environ["DEEPSPEED"]))
    encoded = host.train("encoded", CONFIG | {"max_train_steps": 1, "checkpointing_steps": 1}).check()

    def train(name: str, **changes: Any) -> list[Run]:
        if not (folder / name).exists():
            shutil.copytree(encoded.folder / "cache", folder / name / "cache")
        given = {"DS_ACCELERATOR": "cpu"}
        return host.train_on_ranks(name, CONFIG | changes, probe=deepspeed.note_weights, environment=given)

    found = Compared(train("by_ddp"), {}, {}, {}, [])
    for stage in (1, 2):
        name, settings = f"zero_{stage}", {"deepspeed_config": zero(stage)}
        found.first[stage] = train(name, **settings)
        output = found.first[stage][0].output
        found.kept[stage] = shutil.copytree(output, folder / name / "kept")
        shutil.rmtree(output / "checkpoint-4")
        found.resumed[stage] = train(name, **settings, **RESUMED)
    invalid = {"delete_invalid_checkpoints": True}
    shutil.copytree(found.by_ddp[0].folder, folder / "on_ddp")
    found.on_ddp.extend(train("on_ddp", deepspeed_config=zero(2), **RESUMED, **invalid))
    host.close()
    return found


DEEPSPEED_RECIPES = {"by_deepspeed": by_deepspeed}
