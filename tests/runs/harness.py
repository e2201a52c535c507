"""Runs the installed host as its users do, in a folder of its own, and gathers what came of it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from simpletuner_twinflow.host.sources import definitions
from testbed.digits import write_digits
from testbed.forkserver import ForkServer
from testbed.trainer import cpu_environment, datasets, write_run
from tests.runs.run import EVENTS, Run

ROOT = Path(__file__).parents[2]
OBSERVER = Path(__file__).parent / "observer"
CPU = ROOT / "testbed/cpu"
SITE_PACKAGES = next(Path(sys.prefix).glob("lib/python*/site-packages"))
TRAIN = SITE_PACKAGES / "simpletuner/train.py"
SEED = json.loads((ROOT / "sample_configs/sd3-twinflow.json").read_text(encoding="utf-8"))
# Its own tracker, which hosts before 4.8 do not have.
TRACKER = "simpletuner" if definitions("simpletuner.helpers.training.local_metrics") else "tensorboard"
# What a run on this machine needs on top of a user's config: tiny model, local data, float32, few steps.
TINY = {
    "model_flavour": "medium",
    "seed": 42,
    "resolution": 64,
    "resolution_type": "pixel",
    "tokenizer_max_length": 8,
    "torch_num_threads": 1,
    "num_train_epochs": 0,
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "lr_scheduler": "constant",
    "optimizer": "optimi-adamw",
    "mixed_precision": "no",
    "base_model_precision": "no_change",
    "gradient_checkpointing": False,
    "caption_dropout_probability": 0.0,  # so that only guidance asks for the empty prompt
    "ema_decay": 0.99,
    "validation_prompt": "a handwritten digit 3",
    "validation_disable_unconditional": True,
    "validation_resolution": "64x64",
    "validation_steps": 2,
    "report_to": TRACKER,
    "disable_bucket_pruning": True,
    "disable_benchmark": True,
    "lora_rank": 8,
    "learning_rate": 1e-3,
}
Probe = Callable[[], None]  # of the package `observer.probes`; called inside the run before it starts
FULL = {"model_type": "full", "train_batch_size": 8, "gradient_accumulation_steps": 1}


class Host:
    """Starts runs on one tiny pipeline and one small image set."""

    def __init__(self, folder: Path, packages: Path | None = None) -> None:
        """Args: folder: of all runs. packages: a folder of packages that the environment does not have."""
        self.folder, self.pipeline, self.images = folder, ROOT / "demo/base", folder / "digits"
        write_digits(self.images, limit=64)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SIMPLETUNER"))}
        path = os.pathsep.join(map(str, [OBSERVER, CPU] if packages is None else [OBSERVER, CPU, packages]))
        self.environment = clean | cpu_environment() | {"PYTHONPATH": path}
        self._server = ForkServer(self.environment, folder / "forkserver.txt")

    def close(self) -> None:
        """End what is needed to start runs."""
        self._server.close()

    def train(
        self,
        name: str,
        config: dict[str, Any],
        *,
        command: str = "fork",
        images: list[dict[str, Any]] | None = None,
        probe: Probe | None = None,
        environment: dict[str, str] | None = None,
        timeout: int = 600,
    ) -> Run:
        """Run the host on a config in the folder `name`; a second run there resumes.

        Args:
            name: of the run's folder.
            config: the user's keys; paths to model and data are filled in.
            command: "fork" (train.py, forked from a process that has imported the host), "simpletuner" (console
                script), "accelerate" (as that script starts it) or "bare" (the same in an environment that does not
                have the plugin).
            images: the host's entries for the image sets, in place of the digits.
            probe: what the run is watched by beside the ordinary events, or what is changed in it.
            environment: further environment variables.
            timeout: seconds.
        """
        folder = self.lay_out(name, config, images)
        if command == "fork":
            return self._forked(folder, [{}], environment or {}, timeout, probe)[0]
        variables = dict(self.environment)
        launch = [
            "-m",
            "accelerate.commands.launch",
            "--num_processes=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
        ]
        if command == "simpletuner":
            argv = ["simpletuner", "train"]
        elif command == "accelerate":
            argv = [sys.executable, *launch, str(TRAIN)]
        else:
            # A site-packages folder that is only on PYTHONPATH has its start-up files left unread, and a plugin
            # installed in editable mode is not importable from there: the host is as if the plugin were not installed.
            argv = [sys._base_executable, *launch, str(TRAIN)]
            variables["PYTHONPATH"] += f"{os.pathsep}{SITE_PACKAGES}"
        return Run.read(folder, 0, self._called(argv, folder, variables | (environment or {}), timeout, probe))

    def train_on_ranks(
        self,
        name: str,
        config: dict[str, Any],
        *,
        command: str = "fork",
        probe: Probe | None = None,
        environment: dict[str, str] | None = None,
        timeout: int = 300,
    ) -> list[Run]:
        """As `train`, in two processes of one group (gloo); a run a rank.

        Args:
            name: of the run's folder.
            config: the user's keys.
            command: "fork", or "torchrun", which writes what all ranks print into one log.
            probe: as of `train`.
            environment: further environment variables.
            timeout: seconds.
        """
        folder, given = self.lay_out(name, config, None), (environment or {}) | {"ACCELERATE_USE_CPU": "true"}
        if command == "torchrun":
            launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port", str(free_port())]
            code = self._called([sys.executable, *launch, str(TRAIN)], folder, self.environment | given, timeout, probe)
            return [Run.read(folder, rank, code) for rank in range(2)]
        group = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        each = [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        return self._forked(folder, each, given, timeout, probe)

    def _called(
        self, argv: list[Any], folder: Path, environment: dict[str, str], timeout: int, probe: Probe | None
    ) -> int:
        """The exit code of a command run in a run's folder."""
        watched = {"OBSERVER_FILE": str(folder / EVENTS), "OBSERVER": _spelt(probe)}
        with (folder / "log-0.txt").open("wb") as log:
            return subprocess.run(
                argv,
                cwd=folder,
                env=environment | watched,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            ).returncode

    def lay_out(self, name: str, config: dict[str, Any], images: list[dict[str, Any]] | None = None) -> Path:
        """The folder of this run with its files, for a command of one's own."""
        folder = self.folder / name
        for old in folder.glob("events-*.jsonl"):
            old.unlink()
        paths = {
            "pretrained_model_name_or_path": str(self.pipeline),
            "data_backend_config": "config/data.json",
            "output_dir": "output",
        }
        write_run(folder, config | paths, self.images)
        if images is not None:
            _, text = datasets(self.images)
            (folder / "config/data.json").write_text(json.dumps([*images, text]), encoding="utf-8")
        return folder

    def _forked(
        self,
        folder: Path,
        variables_of_ranks: list[dict[str, str]],
        environment: dict[str, str],
        timeout: int,
        probe: Probe | None,
    ) -> list[Run]:
        started = []
        for rank, variables in enumerate(variables_of_ranks):
            given = variables | environment | {"OBSERVER_FILE": str(folder / EVENTS)}
            log = folder / f"log-{rank}.txt"
            started.append(self._server.start(folder, log, given, timeout, prelude=_spelt(probe)))
        return [Run.read(folder, rank, code.result()) for rank, code in enumerate(started)]


def _spelt(probe: Probe | None) -> str:
    """A probe as "module:function", by the module's name inside a run, which has the folder `observer` on its path."""
    if probe is None:
        return ""
    module = probe.__module__.removeprefix(f"{__package__}.{OBSERVER.name}.")
    return f"{module}:{probe.__qualname__}"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Runs:
    """The runs a test session needs, two at a time, each started once and as early as possible."""

    def __init__(self, host: Host, wanted: dict[str, Any]) -> None:
        """Args: wanted: name -> function that takes the host and the runs, and returns what a test asks for."""
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._futures: dict[str, Future] = {}
        for name, start in wanted.items():
            self._futures[name] = self._pool.submit(start, host, self)

    def __getitem__(self, name: str) -> Any:
        return self._futures[name].result()
