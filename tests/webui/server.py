"""A real `simpletuner server` process with a folder of its own, and what its web API says."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = 120  # seconds that a server may take to answer


@contextlib.contextmanager
def running(home: Path, **environment: str) -> Iterator[str]:
    """The address of a server that keeps everything below `home`; its log is `home/log.txt`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "HOME": str(home),
        "SIMPLETUNER_HOME": str(home),
        "SIMPLETUNER_WEB_UI_CONFIG": str(home / "webui"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [Path(sys.executable).with_name("simpletuner"), "server", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log.txt").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, env=os.environ | own | environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/api/fields/metadata")
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for(url: str, seconds: float = START) -> None:
    """Return once a server that is still starting answers."""
    for _ in range(int(seconds)):
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.URLError:
            time.sleep(1)
        else:
            return
    raise AssertionError(f"no answer from {url} in {seconds} s")


def ask(url: str, content: Any = None) -> Any:
    """The JSON that the server answers; with content, to a POST of it."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def set_up(address: str, home: Path, name: str, config: dict[str, Any]) -> None:
    """Take the server past its first questions, with this configuration as the active one."""
    folder = home / "config" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    answers: dict[str, Any] = {
        "default_configs_dir": str(home / "config"),
        "default_output_dir": str(home / "output"),
        "default_datasets_dir": str(home),
        "accelerate_defaults": {"mode": "disabled"},
        "create_initial_environment": name,
    }
    for step in ask(f"{address}/api/webui/state")["onboarding"]["steps"]:
        ask(f"{address}/api/webui/onboarding/steps/{step['id']}", {"value": answers[step["id"]]})
    ask(f"{address}/api/configs/{name}/activate", {})
