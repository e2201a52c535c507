"""What the soak shares: one host, and a file of what was seen, from which docs/reliability.md has its table."""

import json
from pathlib import Path

import pytest

from tests.runs.harness import Host

SEEN = Path(__file__).parents[2] / "output" / "soak.json"


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("soak"))
    yield host
    host.close()


@pytest.fixture
def seen(request):
    """Call it with a line on what was tried and what came of it; kept under the test's name."""

    def keep(tried: str, result: str) -> None:
        lines = json.loads(SEEN.read_text(encoding="utf-8")) if SEEN.exists() else {}
        lines[request.node.name] = [tried, result]
        SEEN.parent.mkdir(exist_ok=True)
        SEEN.write_text(json.dumps(lines, indent=1), encoding="utf-8")

    return keep
