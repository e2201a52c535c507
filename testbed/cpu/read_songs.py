"""For machines without FFmpeg only, which torchaudio reads files with: songs are read by soundfile there.

The host's own way around it asks for FFmpeg's command, and takes songs to 16,000 samples a second.
"""

from collections.abc import Callable
from typing import Any

from once_imported import once_imported

LOADER = "simpletuner.helpers.audio.load"


def reading_by(load: Callable) -> Callable:
    """torchaudio's way to read a file, and soundfile's where that cannot load FFmpeg's libraries."""

    def read(source: Any, *args: Any, **kwargs: Any) -> tuple[Any, int]:
        try:
            return load(source, *args, **kwargs)
        except (ImportError, OSError, RuntimeError):
            import soundfile
            import torch

            wave, rate = soundfile.read(source, dtype="float32", always_2d=True)
            return torch.from_numpy(wave.T.copy()), int(rate)

    return read


def without_ffmpeg() -> None:
    """Make the exchange in this process, once the host's loader of sound is imported."""
    once_imported(LOADER, _exchange)


def _exchange() -> None:
    import torchaudio

    torchaudio.load = reading_by(torchaudio.load)
