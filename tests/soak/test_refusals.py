"""Bad configurations and data sets end before anything is loaded, with the key or the file and a way out."""

import copy
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simpletuner_twinflow.host.settings import conflict_rows
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions
from testbed.trainer import datasets
from tests.runs.harness import SEED, TINY

pytestmark = pytest.mark.soak
CONFIGS, DATASETS = 100, 50


def bad_options() -> Iterator[tuple[str, Any]]:
    """Keys of ours with values that are not allowed, and keys that do not exist."""
    for name in TwinFlowOptions.names():
        key = PREFIX + name
        yield key, {"an": ["object", 1]} if name != "role_shares" else {"nobody": 1}
        yield key, "yes please" if TwinFlowOptions.type_of(name) is not str else "[1, 2, 3"
        if TwinFlowOptions.type_of(name) in (int, float):
            yield key, -1
            yield key, 10**9
        yield f"{PREFIX}{name[1:]}", 1  # its first letter lost


def bad_host_keys() -> Iterator[tuple[str, Any]]:
    """Keys of the host's that exclude TwinFlow, at values for which they do."""
    rows = conflict_rows.HOST_CONFLICTS + conflict_rows.ADAPTER_CONFLICTS
    for row in rows:
        for value in (True, 2, 0.5, "lcm", "huber", "singlora", "self_flow", "loftq"):
            if row.applies(value):
                yield row.key, value
                break
    yield "use_ema", False
    yield "model_family", "stable_cascade"
    yield "model_family", "bria"


def bad_datasets(good: str) -> Iterator[tuple[str, str]]:
    """Texts of a data config that nothing can be read from, or that TwinFlow cannot train on."""
    choice = random.Random(0)
    for _ in range(DATASETS - 8):
        at = choice.randrange(1, len(good) - 2)
        yield f"cut after {at} characters", good[:at]
    yield "empty", ""
    yield "an object", '{"id": "digits"}'
    yield "a number", "3"
    yield "a list of numbers", "[1, 2]"
    yield "a list in a list", "[[]]"
    yield "no JSON", "id: digits"
    first, *rest = json.loads(good)
    yield "a slider", json.dumps([first | {"slider_strength": -1.0}, *rest])
    yield "regularisation alone", json.dumps([first | {"is_regularisation_data": True}, *rest])


def test_bad_configurations_are_refused_by_name(host, seen):
    tried = [*bad_options(), *bad_host_keys()]
    random.Random(1).shuffle(tried)
    failures, given = [], [(SEED | TINY | {key: value}, None) for key, value in tried[:CONFIGS]]
    for (key, value), (code, text) in zip(tried, _started(host, given), strict=False):
        if code == 0 or key not in text or "Traceback" in text:
            failures.append((key, value, code, text[-500:]))
    assert failures == []
    seen(f"{CONFIGS} bad configurations", "each refused by the name of its key")


def test_bad_data_sets_are_refused_by_the_name_of_their_file(host, seen):
    good = json.dumps(datasets(host.images))
    failures, tried = [], [*bad_datasets(good)]
    for (what, _), (code, said) in zip(tried, _started(host, [(SEED | TINY, text) for _, text in tried]), strict=True):
        if code == 0 or "data.json" not in said or "Traceback" in said:
            failures.append((what, code, said[-500:]))
    assert failures == []
    seen(f"{DATASETS} bad data sets", "each refused by the name of its file")


def _started(host: Any, given: list[tuple[dict[str, Any], str | None]]) -> Iterator[tuple[int, str]]:
    """Start the host's command on each configuration, two at a time. Returns: each one's exit code and words."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda at: _start(host, f"refused_{at}", *given[at]), range(len(given)))


def _start(host: Any, name: str, config: dict[str, Any], data: str | None) -> tuple[int, str]:
    folder = host.lay_out(name, copy.deepcopy(config))
    if data is not None:
        (folder / "config/data.json").write_text(data, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("simpletuner")), "train"]
    found = subprocess.run(command, cwd=folder, env=host.environment, capture_output=True, text=True, timeout=120)
    return found.returncode, found.stdout + found.stderr
