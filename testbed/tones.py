"""A set of short songs: each is one tone with its overtones, in a caption's pitch, with lyrics of their own."""

import wave
from pathlib import Path

import numpy as np

RATE = 44_100  # samples a second
PITCHES = {"low": 110, "mid": 220, "top": 440}  # of as many tokens each: SimpleTuner pads no prompt of ACE-Step


def write_tones(folder: Path, limit: int = 12, seconds: float = 0.5) -> int:
    """Write `NNNN.wav`, in stereo, its caption `NNNN.txt` and its words `NNNN.lyrics` for each song.

    Args:
        folder: made if missing.
        limit: how many.
        seconds: of the shortest; they are of two lengths.

    Returns: how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(limit):
        name, pitch = list(PITCHES.items())[number % len(PITCHES)]
        time = np.arange(int(RATE * seconds * (1 + number % 2))) / RATE
        tone = sum(np.sin(2 * np.pi * pitch * part * time + number) / part for part in (1, 2, 3))
        both = np.stack([tone, tone * np.cos(2 * np.pi * 3 * time)], axis=1) * 0.3
        with wave.open(str(folder / f"{number:04d}.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((both * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes())
        (folder / f"{number:04d}.lyrics").write_text("la la\n" * (number % 3), encoding="utf-8")
        (folder / f"{number:04d}.txt").write_text(f"a {name} tone\n", encoding="utf-8")
    return limit
