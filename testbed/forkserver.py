"""Runs of the host in seconds: SimpleTuner is imported once, and each run is a fork that starts its `train.py` anew.

A run ends as a process of the real command does: threads and queues are waited for, exit handlers run. What differs
from `simpletuner train`: no console script and no `accelerate launch` stand in front, and the host's modules are
imported already. So what is about start-up itself still needs the real command.

Where there is a GPU each run is a process of its own, which imports the host itself: CUDA does not survive a fork.
"""

import atexit
import json
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

# What the host imports only once a run saves or makes its first step; half of a tiny run's time.
IMPORTED_LATE = ("torch._inductor.compile_fx", "torch._inductor.cudagraph_trees", "sdnq.training", "networkx")
# What `accelerate launch --num_processes=1 --mixed_precision=no --dynamo_backend=no` gives the process it starts.
LAUNCHED = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_USE_CPU": "False",
}
OWN_PROCESSES = "TESTBED_OWN_PROCESSES"  # environment variable: "1" has each run be a process of its own


class ForkServer:
    """A process that has imported the host and forks a run of it for each call of `start`."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """Start the server; the first runs wait until it has imported the host.

        Args:
            environment: of the server; a run's own is put on top of it.
            log: file for what the server itself prints.
        """
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve())],
                env={OWN_PROCESSES: str(int(_has_gpu()))} | dict(environment) | LAUNCHED,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[int]] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(
        self,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        limit: float,
        arguments: Sequence[str] = (),
        prelude: str = "",
    ) -> "Future[int]":
        """Fork a run; the future is its exit code, negative for a signal as in `subprocess`.

        Args:
            folder: that the run starts in.
            log: file for all it prints.
            environment: variables on top of the server's.
            limit: seconds after which the run is killed with all its children.
            arguments: of `train.py`.
            prelude: "module:function" called in the run before `train.py` starts.
        """
        job = {
            "folder": str(folder),
            "log": str(log),
            "environment": dict(environment),
            "limit": limit,
            "arguments": list(arguments),
            "prelude": prelude,
        }
        with self._lock:
            number, future = len(self._waiting), Future()
            self._waiting[number] = future
            self._process.stdin.write(json.dumps(job | {"number": number}) + "\n")
            self._process.stdin.flush()
        return future

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        for line in self._process.stdout:
            number, code = map(int, line.split())
            self._waiting[number].set_result(code)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RuntimeError("The fork server has ended; its log says why."))


def _serve(answers: TextIO) -> dict[str, Any] | None:
    """Fork a child for each job; in the child, return the job. None once the client has gone and all runs are over."""
    running, closed = {}, False
    os.set_blocking(0, False)
    buffer = b""
    while not closed or running:
        try:
            chunk = os.read(0, 65536) if not closed else None
            closed = closed or chunk == b""
            buffer += chunk or b""
        except BlockingIOError:
            pass
        *lines, buffer = buffer.split(b"\n")
        for job in map(json.loads, lines):
            pid = os.fork()
            if pid == 0:
                answers.close()
                return job
            running[pid] = job | {"end": time.monotonic() + job["limit"]}
        for pid, job in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                print(job["number"], os.waitstatus_to_exitcode(status), file=answers)
                answers.flush()
            elif time.monotonic() > job["end"]:
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.05)
    return None


def _become(job: Mapping[str, Any], train: str) -> None:
    """Make this process what the real command would have started."""
    _forget_exit_handlers()
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    sys.argv = [train, *job["arguments"]]
    if job["prelude"]:
        module, function = job["prelude"].split(":")
        getattr(import_module(module), function)()


def _forget_exit_handlers() -> None:
    """Leave what is to be done at the server's end to the server: its temporary folders serve all runs."""
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    atexit.register(multiprocessing.util._exit_function)


def _run_and_exit(train: str) -> None:
    """Run the script, then end as the interpreter would, but for the destructors of C++ libraries.

    Those would join threads of the server, which a fork does not have.
    """
    code = 1
    try:
        runpy.run_path(train, run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its top level
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _main() -> None:
    train = str(Path(find_spec("simpletuner").origin).parent / "train.py")
    sys.path[0] = str(Path(train).parent)  # as for a script that is started by name
    if len(sys.argv) == 2:
        job = json.loads(sys.argv[1])
    else:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # nothing but answers may be said to the client, and some imports print
        own_processes = os.environ[OWN_PROCESSES] == "1"
        if not own_processes:
            runpy.run_path(train, run_name="imported_by_the_fork_server")
            for module in IMPORTED_LATE:
                import_module(module)
        if (job := _serve(answers)) is None:
            return
        if own_processes:
            os.execv(sys.executable, [sys.executable, __file__, json.dumps(job)])
    _become(job, train)
    _run_and_exit(train)


if __name__ == "__main__":
    _main()
