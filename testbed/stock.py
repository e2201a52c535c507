"""Runs code as somebody does who has stock diffusers and neither this plugin nor the host."""

import os
import subprocess
import sys
from pathlib import Path

WITHOUT_PLUGIN_AND_HOST = """
import sys
sys.modules |= {"simpletuner": None, "simpletuner_twinflow": None}  # importing them raises ImportError
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
