"""The host's commands on configurations that are refused: how soon they end, and all that a person sees."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simpletuner_twinflow._preflight import REFUSED, starts_training
from simpletuner_twinflow.host.settings import preflight
from testbed.trainer import cpu_environment
from tests.runs.harness import SEED, TRAIN

pytestmark = pytest.mark.host

TOML = """
model_family = "sd3"
use_ema = true
twinflow_enabled = true
twinflow_estimate_order = 2.0
twinflow_loss = ""
twinflow_export_weights = ["ema", "student"]
"""
ENV = """
MODEL_FAMILY=sd3
USE_EMA=false
TWINFLOW_LOSS="banana"
TRAINER_EXTRA_ARGS="--twinflow_enabled=true --twinflow_delta_t 0,01"
"""
PAPER = (
    'twinflow_implementation is "Paper"; allowed: "paper" or "host". Set it to "paper" or remove it (default paper).'
)


def variables(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SIMPLETUNER", "CONFIG", "ENV"))}
    return clean | cpu_environment() | more


def run(folder: Path, *command: str, **more: str) -> tuple[int, str, float]:
    """Exit code, all output and seconds of a command."""
    began = time.monotonic()
    result = subprocess.run(
        command,
        cwd=folder,
        env=variables(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return result.returncode, result.stdout, time.monotonic() - began


def write_config(path: Path, **changes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(SEED | changes), encoding="utf-8")


def lines_of(output: str) -> list[str]:
    """The problems of a refusal that is all the output there is."""
    title, *problems = output.splitlines()
    if not problems:
        return [title.removeprefix("simpletuner-twinflow: ")]
    assert title == f"simpletuner-twinflow: {len(problems)} problems in this configuration:"
    return [problem.removeprefix(f"  {number}. ") for number, problem in enumerate(problems, start=1)]


def test_json_config_is_refused_in_seconds_with_nothing_but_its_problems(tmp_path):
    write_config(tmp_path / "config/config.json", twinflow_target_step_count="two", controlnet=True, use_ema="false")
    code, output, seconds = run(tmp_path, "simpletuner", "train")
    assert code == 1
    steps, ema, controlnet = lines_of(output)
    assert steps.startswith('twinflow_target_step_count is "two"; allowed: a whole number from 1 to 8.')
    assert ema.startswith('use_ema is "false"')
    assert controlnet.startswith("controlnet is true")
    assert seconds < 30  # two on a quiet machine; importing torch and the host takes longer than a minute


def test_toml_config_is_refused_alike(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.toml").write_text(TOML, encoding="utf-8")
    code, output, _ = run(tmp_path, "simpletuner", "train")
    assert code == 1
    order, weights, loss = lines_of(output)
    assert order.startswith("twinflow_estimate_order is 2.0")
    assert loss.startswith('twinflow_loss is ""')
    assert weights.startswith('twinflow_export_weights is ["ema", "student"]')


def test_environment_config_is_refused_alike(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.env").write_text(ENV, encoding="utf-8")
    code, output, _ = run(tmp_path, "simpletuner", "train")
    assert code == 1
    delta, loss, ema = lines_of(output)
    assert delta.startswith('twinflow_delta_t is "0,01"')
    assert loss.startswith('twinflow_loss is "banana"')
    assert ema.startswith('use_ema is "false"')


@pytest.mark.parametrize("arguments", [["env=mine"], ["--env", "mine"]], ids=" ".join)
def test_named_environment_is_the_one_that_is_read(arguments, tmp_path):
    write_config(tmp_path / "config/mine/config.json", twinflow_implementation="Paper")
    write_config(tmp_path / "config/config.json", twinflow_delta_t=7)
    code, output, _ = run(tmp_path, "simpletuner", "train", *arguments)
    assert (code, lines_of(output)) == (1, [PAPER])


def test_command_line_config_is_refused_alike(tmp_path):
    arguments = ["--model_family=sd3", "--use_ema", "--twinflow_enabled=true", "--twinflow_implementation=Paper"]
    code, output, _ = run(tmp_path, sys.executable, str(TRAIN), *arguments, CONFIG_BACKEND="cmd")
    assert (code, lines_of(output)) == (1, [PAPER])


def test_two_ranks_end_together_with_one_message(tmp_path):
    write_config(tmp_path / "config/config.json", twinflow_implementation="Paper")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(TRAIN)]
    code, output, seconds = run(tmp_path, *launch, ACCELERATE_USE_CPU="true")
    assert code != 0
    assert output.count(PAPER) == 1
    assert seconds < 60


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"twinflow_enhanced_range": [0.2, 0.8], "twinflow_role_shares": {"near": 1, "sampler_step": 1}},
        {"twinflow_enabled": False, "twinflow_delta_t": "0,01"},
        {"model_family": None, "use_ema": False},
    ],
    ids=["accepted", "lists and objects", "off", "refused"],
)
def test_only_what_is_refused_stops_the_command(changes, tmp_path):
    """Asked of the small process itself, since the command would go on to train."""
    write_config(tmp_path / "config/config.json", **changes)
    command = [sys.executable, "-P", "-m", "simpletuner_twinflow.host.settings.preflight", "simpletuner", "train"]
    code, output, _ = run(tmp_path, *command, SIMPLETUNER_SKIP_TORCH="1")
    assert code == (REFUSED if "model_family" in changes else 0)
    assert ("use_ema" in output) == (code == REFUSED)


def test_config_that_the_host_cannot_read_is_left_to_it(tmp_path):
    write_config(tmp_path / "config/config.json")
    (tmp_path / "config/config.json").write_text('{"twinflow_enabled": tru', encoding="utf-8")
    command = [sys.executable, "-P", "-m", "simpletuner_twinflow.host.settings.preflight", "simpletuner", "train"]
    code, output, _ = run(tmp_path, *command, SIMPLETUNER_SKIP_TORCH="1")
    assert code not in (0, REFUSED)
    assert "Failed to parse JSON file" in output


def test_switched_off_plugin_checks_nothing(tmp_path):
    write_config(tmp_path / "config/config.json", twinflow_implementation="Paper")
    shutil.copy(tmp_path / "config/config.json", tmp_path / "config.json")
    check = "import simpletuner; print('imported')"
    folder = tmp_path / "simpletuner"  # so that the command line is that of a training command
    folder.mkdir()
    (folder / "train.py").write_text("import sys; del sys.path[0]\n" + check, encoding="utf-8")
    command = [sys.executable, str(folder / "train.py")]
    light = {"SIMPLETUNER_SKIP_TORCH": "1"}
    assert run(tmp_path, *command, **light)[:2] == (1, f"simpletuner-twinflow: {PAPER}\n")
    assert run(tmp_path, *command, **light, SIMPLETUNER_TWINFLOW_DISABLED="1")[:2] == (0, "imported\n")
    assert run(tmp_path, *command, **light, SIMPLETUNER_TWINFLOW_CHECKED="1")[:2] == (0, "imported\n")
    assert run(tmp_path, *command, **light, LOCAL_RANK="1")[:2] == (0, "imported\n")


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["/usr/bin/simpletuner", "train"], True),
        (["simpletuner.exe", "train", "env=mine"], True),
        (["simpletuner", "--ssl", "train"], True),
        (["/usr/bin/simpletuner", "server"], False),
        (["/usr/bin/simpletuner"], False),
        (["/usr/bin/simpletuner", "jobs", "train"], False),
        (["/lib/simpletuner/train.py"], True),
        (["/home/me/train.py"], False),
        (["-c"], False),
        ([""], False),
        ([], False),
    ],
)
def test_training_commands_are_told_from_others(argv, answer):
    assert starts_training(argv) is answer


def test_check_imports_neither_torch_nor_what_trains(tmp_path):
    """As the host's command starts it; importing what hooks of other modules work with would take most of a minute."""
    write_config(tmp_path / "config/config.json", twinflow_loss="banana")
    command = [sys.executable, "-P", "-X", "importtime", "-m", preflight.__name__, "simpletuner", "train"]
    environment = variables(SIMPLETUNER_SKIP_TORCH="1", SIMPLETUNER_TWINFLOW_CHECKED="1")
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == REFUSED, result.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert "simpletuner.helpers.configuration.cli_utils" in imported
    assert not imported & {"torch", "diffusers", "peft", "accelerate", "wandb"}
