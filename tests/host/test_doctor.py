"""`simpletuner-twinflow doctor`: what the command reads, says and ends with."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from simpletuner_twinflow.host import doctor, sources
from simpletuner_twinflow.host.doctor import PACKAGES, as_text
from simpletuner_twinflow.host.seams import Seam, Touch, all_hooks
from simpletuner_twinflow.host.settings.given import EMA_ADDED
from testbed.trainer import cpu_environment
from tests.host.settings.configs import SEED

COMMAND = Path(sys.executable).with_name("simpletuner-twinflow")


def run(*arguments, folder, **more):
    """Exit code, output and seconds of the command."""
    began = time.monotonic()
    result = subprocess.run(
        [COMMAND, "doctor", *arguments], cwd=folder, env=os.environ | cpu_environment() | more,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr, time.monotonic() - began


def test_command_reads_the_folders_configuration_and_its_exit_code_says_whether_a_run_would_start(tmp_path):
    (tmp_path / "config").mkdir()
    file = tmp_path / "config/config.json"
    file.write_text(json.dumps({f"--{key}": value for key, value in SEED.items()}), encoding="utf-8")
    code, said, complained, seconds = run(folder=tmp_path)
    assert (code, complained) == (0, "")
    assert "TwinFlow would start once data_backend_config names a file." in said.splitlines()[-1]
    assert "against the frozen base" in said
    assert seconds < 180  # seconds alone; beside other tests it waits for the machine
    assert "data_backend_config is not set" in said
    file.write_text(json.dumps(SEED | {"controlnet": True, "twinflow_loss": "banana"}), encoding="utf-8")
    code, said, complained, _ = run("--json", folder=tmp_path)
    assert (code, complained) == (1, "")
    problems = json.loads(said)["problems"]
    assert [problem.split()[0] for problem in problems] == ["twinflow_loss", "controlnet"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 0, "No configuration was examined"),
        (("nowhere.json",), 1, "nowhere.json is not a config file"),
        (("broken.json",), 1, "broken.json cannot be read"),
        (("some.toml",), 0, "TwinFlow would start once data_backend_config names a file."),
    ],
)
def test_command_takes_a_file_and_says_what_it_lacks(arguments, code, words, tmp_path):
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "some.toml").write_text('model_family = "sd3"\nuse_ema = true\ntwinflow_enabled = true\n')
    found, said, complained, _ = run(*arguments, folder=tmp_path)
    assert (found, complained) == (code, "")
    assert words in said


def test_seams_are_found_in_the_sources_as_in_the_imported_host():
    needed, optional = sources.problems_in_sources()
    assert (needed, optional) == ([], {})
    assert sum(len(hook.seams) for _, hook in all_hooks()) > 100


@pytest.mark.parametrize(
    ("seam", "module", "words"),
    [
        (Seam("Trainer.no_such"), "simpletuner.helpers.training.trainer", "trainer.Trainer.no_such is missing"),
        (Seam("NoSuch.train"), "simpletuner.helpers.training.trainer", "NoSuch.train is missing"),
        (Seam("x"), "simpletuner.helpers.no_such", "simpletuner.helpers.no_such is missing"),
        (Seam("x"), "no_such_package.at.all", "no_such_package.at.all is missing"),
        (Seam("Accelerator.log", ("value",)), "accelerate.accelerator", "lacks the parameter value"),
        (Seam("GradientState.__init__"), "accelerate.state", None),
        (Seam("load_config", ("arg",)), "simpletuner.helpers.configuration.loader", "lacks the parameter arg"),
        (Seam("load_config", ("args",)), "simpletuner.helpers.configuration.loader", None),
        (Seam("Trainer.ema_model", touch=Touch.read), "simpletuner.helpers.training.trainer", None),
        (Seam("Trainer.ema_model", touch=Touch.wrapped), "simpletuner.helpers.training.trainer", "is missing"),
        (Seam("Trainer.given", touch=Touch.given), "simpletuner.helpers.training.trainer", None),
        (Seam("config.anything"), "simpletuner.helpers.training.trainer", None),
    ],
    ids=str,
)
def test_a_seam_that_is_not_in_the_sources_is_named(seam, module, words):
    found = sources.problem(seam, module)
    assert found is None if words is None else words in found


def test_lists_and_objects_are_read_as_the_host_reads_them(tmp_path):
    shares = {"near": 1000, "sampler_step": 1}
    config = SEED | {"twinflow_enhanced_range": [0.2, 0.8], "twinflow_role_shares": shares, "use_ema": None}
    (tmp_path / "one.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.toml").write_text(
        'model_family = "sd3"\nmodel_type = "lora"\ntwinflow_enabled = true\ntwinflow_target_step_count = 2\n'
        "twinflow_enhanced_range = [0.2, 0.8]\ntwinflow_role_shares = {near = 1000, sampler_step = 1}\n"
    )
    for arguments in (["one.json"], []):
        code, said, complained, _ = run(*arguments, folder=tmp_path)
        assert (code, complained) == (0, "")
        assert 'twinflow_role_shares {"near": 1000.0, "sampler_step": 1.0}' in said
        assert "real_velocity on 99.90% of the rows (near), rcgm on 0.10% (sampler_step)" in said
        assert "at times 0.2 to 0.8" in said
        assert said.count(EMA_ADDED) == 1


def test_folder_whose_config_is_a_list_and_a_plugin_that_is_switched_off_are_named(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text("[1]", encoding="utf-8")
    code, said, complained, _ = run(folder=tmp_path, SIMPLETUNER_TWINFLOW_DISABLED="1")
    assert (code, complained) == (1, "")
    assert "The configuration in this folder cannot be read" in said
    assert "SIMPLETUNER_TWINFLOW_DISABLED is set" in said


def test_without_the_host_that_alone_is_said(monkeypatch, capsys):
    real = doctor.version

    def version(name):
        if name == "simpletuner":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    assert doctor.main([]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "SimpleTuner is not installed in this environment." in said
    assert "pip install 'simpletuner-twinflow[host]'" in said


def test_text_counts_the_problems_and_names_what_optional_seams_are_missing():
    report = {
        "versions": dict.fromkeys(PACKAGES) | {"simpletuner-twinflow": "1", "simpletuner": "9.9", "python": "3"},
        "seams": {"needed": ["a.b is missing"], "optional": {"c is missing": "no chart is drawn"}},
        "problems": ["one.", "two."],
        "notes": ["said"],
    }
    text = as_text(report)
    for words in (
        "simpletuner 9.9, python 3",
        "said",
        "c is missing; so no chart is drawn",
        "2 problems: a run would stop",
    ):
        assert words in text
