"""Runs that are killed at any moment, or by a full disk, go on as if nothing had been."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.runs.harness import SEED, TINY
from tests.runs.observer.probes import soak
from tests.runs.resume_recipes import ADVERSARIAL, QUIET, RESUMED
from tests.runs.run import EVENTS, Run
from tests.runs.test_resume import tensors

pytestmark = pytest.mark.soak
KILLS = int(os.environ.get("SOAK_KILLS", "10"))
LORA = SEED | TINY | QUIET | ADVERSARIAL | {"train_batch_size": 2, "max_train_steps": 12}
ONE_MORE = {"gradient_accumulation_steps": 2}
WAYS = {
    "one process": (False, LORA | ONE_MORE),
    "two ranks": (True, LORA | {"gradient_accumulation_steps": 1}),
    "full fine-tune": (False, LORA | ONE_MORE | {"model_type": "full"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_run_killed_at_any_moment_ends_as_one_that_was_not(way, host, seen):
    two_ranks, config = WAYS[way]
    name = f"kills-{way.replace(' ', '-')}"
    start = partial(host.train_on_ranks if two_ranks else host.train, name)
    start(config | {"max_train_steps": 1})  # fills the caches: a run that finds them is another to the bit
    output = host.folder / name / "output"
    wanted, began, ended = _uninterrupted(start, config, output)
    choice, steps = random.Random(way), []
    for _ in range(KILLS):
        shutil.rmtree(output)
        killed = {"SOAK_KILL_AFTER": str(choice.uniform(0, ended - began)), "SOAK_KILL_RANK": str(choice.randrange(2))}
        runs = _runs(start(config, probe=soak.killed_later, environment=killed if two_ranks else killed | ALONE))
        assert any(run.code == -signal.SIGKILL for run in runs), runs[0].log[-2000:]
        steps.append(max((int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")), default=0))
        for run in _runs(start(config | RESUMED)):
            run.check()
        assert _differing(wanted, _contents(output)) == []
    seen(
        f"{KILLS} kills at random moments of 12 steps, {way}",
        f"each resumed (from steps {sorted(steps)}): the same bits",
    )


def test_disk_that_fills_up_ends_the_run_with_its_name_and_it_goes_on_once_there_is_room(host, seen):
    config, name = LORA | ONE_MORE, "full-disk"
    start = partial(host.train, name)
    start(config | {"max_train_steps": 1})
    output = host.folder / name / "output"
    wanted, *_ = _uninterrupted(start, config, output)
    size = sum(file.stat().st_size for file in (output / "checkpoint-12").rglob("*") if file.is_file())
    assert size > 0  # of a tmpfs it would mean without a limit
    shutil.rmtree(output)
    output.mkdir()
    kilobytes = int(3.5 * size) // 1024
    mounted = f'mount -t tmpfs -o size={kilobytes}k tmpfs output && "$0" train; code=$?; cp -r output kept; exit $code'
    command = ["unshare", "-rm", "sh", "-c", mounted, str(Path(sys.executable).with_name("simpletuner"))]
    folder = host.folder / name
    watched = host.environment | {"OBSERVER_FILE": str(folder / EVENTS)}
    with (folder / "log-0.txt").open("wb") as log:
        code = subprocess.run(
            command, cwd=folder, env=watched, stdout=log, stderr=subprocess.STDOUT, timeout=600, check=False
        ).returncode
    text = (folder / "log-0.txt").read_text(encoding="utf-8", errors="replace")
    assert code != 0
    # Torch's writer of checkpoints says in its own words that not all bytes were taken.
    assert re.search(r"No space left on device|inline_container.*unexpected pos", text), text[-3000:]
    shutil.rmtree(output)
    (folder / "kept").rename(output)
    left = sorted(path.name for path in output.glob("checkpoint-*"))
    start(config | RESUMED).check()
    assert _differing(wanted, _contents(output)) == []
    seen(
        f"a disk with room for three checkpoints of six ({', '.join(left)} begun)",
        "ends, named; resumed: the same bits",
    )


ALONE = {"SOAK_KILL_RANK": "0"}


def _uninterrupted(start, config: dict, output: Path) -> tuple[dict, float, float]:
    """What a run leaves, and when it began to train and ended."""
    shutil.rmtree(output)
    run, *_ = _runs(start(config, probe=soak.note_times))
    run.check()
    [began], [ended] = run.of("began"), run.of("ended")
    return _contents(output), began["at"], ended["at"]


def _runs(found: Run | list[Run]) -> list[Run]:
    return found if isinstance(found, list) else [found]


def _contents(output: Path) -> dict[str, dict]:
    """All tensors of the last checkpoint and of what was exported, by file."""
    files = [file for file in output.rglob("*") if file.suffix in (".safetensors", ".pt", ".bin")]
    kept = [file for file in files if "checkpoint-" not in str(file) or "checkpoint-12" in str(file)]
    return {
        file.relative_to(output).as_posix(): load_file(file) if file.suffix == ".safetensors" else tensors(file)
        for file in kept
    }


def _differing(one: dict[str, dict], other: dict[str, dict]) -> list[str]:
    differing = sorted(one.keys() ^ other.keys())
    for file in one.keys() & other.keys():
        a, b = one[file], other[file]
        if a.keys() != b.keys() or not all(a[key].equal(b[key]) for key in a):
            differing.append(file)
    return differing
