"""Runs code as somebody does who has stock diffusers and neither this plugin nor the host."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("stock_process.py")
CONDITION = "condition.pt"  # what `note_condition` writes, in the folder

HOST = "TESTBED_WITH_HOST"  # read by the program


def run_without_plugin_and_host(
    code: str, folder: Path, *, note_condition: bool = False, with_host: bool = False, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder, in a process that can import neither this plugin nor the host.

    Args:
        code: written to `code.py` in the folder.
        folder: to run in.
        note_condition: write all tensors that the pipeline's network is given first, a list, to CONDITION.
        with_host: let it import the host after all.
        home: of its hub's cache.
    """
    (folder / "code.py").write_text(code, encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    own = {} if home is None else {"HF_HOME": str(home)}
    return subprocess.run(
        [sys.executable, str(PROGRAM), "code.py", *([CONDITION] if note_condition else [])],
        cwd=folder,
        env=clean
        | own
        | {
            HOST: str(int(with_host)),
            "SIMPLETUNER_TWINFLOW_DISABLED": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
