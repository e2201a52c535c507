"""Runs of the real host on checkpoints that are cut off, incomplete or of another run, and on another run's EMA."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from simpletuner_twinflow.host.checkpoints.files import TIME_CONDITIONING_FILE
from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes import faults
from tests.runs.resume_recipes import ADVERSARIAL, PLAIN, QUIET, RESUMED
from tests.runs.run import Run

LORA = SEED | TINY | QUIET | ADVERSARIAL | {"train_batch_size": 2, "gradient_accumulation_steps": 2}
NEWEST, BEFORE = "checkpoint-4", "checkpoint-2"
ADAPTER, EMA = "pytorch_lora_weights.safetensors", "transformer_ema/ema_model.pt"


def halve(file: Path) -> None:
    """Cut a file in half, as a full disk leaves it."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def scramble(file: Path) -> None:
    """Overwrite a quarter of a file, whose length and ends stay as they were."""
    content = bytearray(file.read_bytes())
    begin, end = len(content) // 4, len(content) // 2
    content[begin:end] = b"\xaa" * (end - begin)
    file.write_bytes(content)


def change(file: Path, how: Callable[[dict], dict]) -> None:
    """Write a file of torch's anew with other content."""
    torch.save(how(torch.load(file, weights_only=True)), file)


def without_counters(state: dict) -> dict:
    return {key: value for key, value in state.items() if key.startswith("shadow_params.")}


def without_last_average(state: dict) -> dict:
    last = max(int(key.split(".")[1]) for key in state if key.startswith("shadow_params."))
    return {key: value for key, value in state.items() if key != f"shadow_params.{last}"}


def with_other_shape(state: dict) -> dict:
    return state | {"shadow_params.0": torch.zeros(2, 3)}


def of_rank_1(state: dict) -> dict:
    """The averages that a LoRA of rank 1 would have; each can be stretched over a larger one."""
    shadows = {key: value for key, value in state.items() if key.startswith("shadow_params.")}
    return state | {key: value[:1] if len(value) < value.shape[1] else value[:, :1] for key, value in shadows.items()}


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {  # by name: the file, and what happens to it
    "optimizer cut off": ("optimizer.bin", halve),
    "adapter cut off": (ADAPTER, halve),
    "adapter missing": (ADAPTER, Path.unlink),
    "EMA cut off": (EMA, halve),
    "EMA of fewer parameters": (EMA, lambda file: change(file, without_last_average)),
    "EMA of another shape": (EMA, lambda file: change(file, with_other_shape)),
    "EMA without counters": (EMA, lambda file: change(file, without_counters)),
    "conditioning cut off": (str(TIME_CONDITIONING_FILE), halve),
    "state cut off": ("twinflow/state.json", halve),
}


def whole(host: Host, runs: Runs) -> Run:
    """Four steps with two checkpoints, for others to damage a copy of."""
    return host.train("whole", LORA)


def damaged(host: Host, runs: Runs) -> dict[str, Run]:
    """Each damage done to the newest checkpoint; then two more steps, invalid checkpoints to be deleted."""
    found = {}
    for name, (file, damage) in DAMAGES.items():
        folder = host.folder / f"damaged {name}"
        shutil.copytree(runs["whole"].folder, folder)
        damage(folder / "output" / NEWEST / file)
        config = LORA | RESUMED | {"max_train_steps": 3, "delete_invalid_checkpoints": True}
        found[name] = host.train(folder.name, config)
    return found


def damaged_kept(host: Host, runs: Runs) -> Run:
    """A damaged checkpoint that is not to be deleted."""
    folder = host.folder / "damaged_kept"
    shutil.copytree(runs["whole"].folder, folder)
    (folder / "output" / NEWEST / ADAPTER).unlink()
    return host.train(folder.name, LORA | RESUMED | {"max_train_steps": 6})


OTHER_NETWORKS = {"lora_rank": {"lora_rank": 4}, "model_type": FULL}


def other_networks(host: Host, runs: Runs) -> dict[str, Run]:
    """Whole checkpoints that do not fit the configuration, invalid ones to be deleted."""
    found = {}
    for key, changes in OTHER_NETWORKS.items():
        folder = host.folder / f"other {key}"
        shutil.copytree(runs["whole"].folder, folder)
        found[key] = host.train(folder.name, LORA | RESUMED | changes | {"delete_invalid_checkpoints": True})
    return found


def all_scrambled(host: Host, runs: Runs) -> Run:
    """Damage that only loading finds, in every checkpoint, invalid ones to be deleted."""
    folder = host.folder / "all_scrambled"
    shutil.copytree(runs["whole"].folder, folder)
    for name in (NEWEST, BEFORE):
        scramble(folder / "output" / name / "optimizer.bin")
    return host.train(folder.name, LORA | RESUMED | {"delete_invalid_checkpoints": True})


def borrowed_rank_1(host: Host, runs: Runs) -> Run:
    """A run that starts from an adapter and another adapter's EMA."""
    whole, file = runs["whole"], host.folder / "rank_1.pt"
    shutil.copy(whole.output / NEWEST / EMA, file)
    change(file, of_rank_1)
    return host.train("borrowed_rank_1", LORA | {"init_lora": str(whole.output / ADAPTER), "init_lora_ema": str(file)})


def comfyui(host: Host, runs: Runs) -> Run:
    """An adapter in ComfyUI's format: two steps, then a resumed one to step 3."""
    config = LORA | {"lora_format": "comfyui"}
    host.train("comfyui", config | {"max_train_steps": 2}).check()
    return host.train("comfyui", config | RESUMED | {"max_train_steps": 3})


def killed_first(host: Host, runs: Runs) -> tuple[Run, Run]:
    """Killed while the first checkpoint is written; then resumed."""
    killed = host.train("killed_first", LORA, probe=faults.killed_in_checkpoint_2)
    return killed, host.train("killed_first", LORA | RESUMED | {"max_train_steps": 2})


def other_options(host: Host, runs: Runs) -> Run:
    """Resumed with another way of conditioning, other target steps, another branch, dropout and decay, fewer layers."""
    folder = host.folder / "other_options"
    shutil.copytree(runs["whole"].folder, folder)
    changed = {
        "twinflow_time_conditioning": "signed_time",
        "twinflow_target_step_count": 4,
        "twinflow_estimate_order": 1,
        "twinflow_adversarial_enabled": False,
        "caption_dropout_probability": 0.2,
        "ema_decay": 0.9,
        "peft_lora_target_modules": ["to_q"],
    }
    return host.train(folder.name, LORA | RESUMED | changed | {"max_train_steps": 5})


def borrowed_ema(host: Host, runs: Runs) -> tuple[Run, Run, Run]:
    """A plain run; a TwinFlow run that starts from its adapter and EMA; a plain run that starts from that one's."""
    plain = PLAIN | TINY | QUIET | {"max_train_steps": 2}
    first = host.train("borrowed_from_plain", plain)
    second = host.train("borrowed", LORA | {"max_train_steps": 2} | _start(first))
    return first, second, host.train("borrowed_by_plain", plain | _start(second))


def _start(run: Run) -> dict[str, str]:
    return {"init_lora": str(run.output / ADAPTER), "init_lora_ema": str(run.output / "checkpoint-2" / EMA)}


DAMAGE_RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        whole,
        damaged,
        damaged_kept,
        other_networks,
        all_scrambled,
        comfyui,
        killed_first,
        other_options,
        borrowed_ema,
        borrowed_rank_1,
    )
}
