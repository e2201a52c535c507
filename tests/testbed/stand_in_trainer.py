"""Stands in for `simpletuner train`: does what the variable STAND_IN names."""

import os
import sys
import time
from pathlib import Path


def three_steps() -> None:
    """Prints a progress bar, half a second a step."""
    time.sleep(0.5)
    for step in range(1, 4):
        print(f"\rSteps:  {step}%| | {step}/3 [00:01", flush=True)
        time.sleep(0.5)


def die() -> None:
    """Says why and fails."""
    print("out of paper", file=sys.stderr)
    sys.exit(3)


def finish_without_exit() -> None:
    """Writes a full fine-tune's last file and stays."""
    _write_and_stay(Path("output/pipeline/model_index.json"))


def finish_lora_without_exit() -> None:
    """Writes a LoRA run's last file and stays."""
    _write_and_stay(Path("output/pytorch_lora_weights.safetensors"))


def _write_and_stay(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    print(os.getpid(), flush=True)
    time.sleep(60)


def fall_silent() -> None:
    """Says something, then nothing."""
    print("last words", flush=True)
    time.sleep(60)


def sleep() -> None:
    """Does nothing for long."""
    time.sleep(60)


globals()[os.environ["STAND_IN"]]()
