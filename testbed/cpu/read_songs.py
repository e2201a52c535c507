"""For machines without FFmpeg only, which torchaudio reads files with: songs are read by soundfile there.

The host's own way around it asks for FFmpeg's command, and takes songs to 16,000 samples a second.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

LOADER = "simpletuner.helpers.audio.load"


class LoaderFinder:
    """Waits for the host's loader of sound, so that no other process pays for importing torchaudio."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find nothing; make the exchange when the module is about to be imported."""
        if fullname == LOADER:
            sys.meta_path.remove(self)
            import torchaudio

            torchaudio.load = reading_by(torchaudio.load)
        return None


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
    """Make the exchange in this process."""
    sys.meta_path.insert(0, LoaderFinder())
