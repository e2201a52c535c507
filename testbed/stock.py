"""Runs code as somebody does who has stock diffusers and neither this plugin nor the host."""

import os
import subprocess
import sys
from pathlib import Path

WITHOUT_PLUGIN_AND_HOST = """
import sys
sys.modules |= {"simpletuner": None, "simpletuner_twinflow": None}  # importing them raises ImportError
"""


# Notes all tensors that the pipeline's network is given first.
NOTE_CONDITION = """
import diffusers, torch
def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
def to(self, *args, _to=diffusers.DiffusionPipeline.to, **kwargs):
    def note(network, args, kwargs):
        torch.save(list(tensors([args, kwargs])), "condition.pt")
        handle.remove()
    network = self.unet if hasattr(self, "unet") else self.transformer
    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    return _to(self, *args, **kwargs)
diffusers.DiffusionPipeline.to = to
"""


def run_without_plugin_and_host(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder, in a process that can import neither this plugin nor the host."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PLUGIN_AND_HOST + code],
        cwd=folder,
        env=clean | {"SIMPLETUNER_TWINFLOW_DISABLED": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
