"""What an import of the package costs. Which module may import which stands in `pyproject.toml`, `importlinter`."""

import subprocess
import sys


def test_importing_the_package_loads_neither_torch_nor_the_host():
    code = "import simpletuner_twinflow, sys; print(sorted({'torch', 'simpletuner', 'wrapt'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
