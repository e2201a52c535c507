"""`simpletuner-twinflow doctor` says of a configuration what a run's start-up says of it, in seconds."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import simpletuner
from simpletuner.simpletuner_sdk.server.services.field_registry.registry import field_registry

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host import doctor, sources
from simpletuner_twinflow.host.doctor import PACKAGES, as_text
from simpletuner_twinflow.host.seams import Seam, Touch, all_hooks
from simpletuner_twinflow.host.settings.examined import HOST_DEFAULTS, examined
from simpletuner_twinflow.host.settings.given import EMA_ADDED
from testbed.trainer import cpu_environment
from tests.host.settings.configs import DIFF2FLOW, SEED, load
from tests.host.settings.test_conflicts import CONFLICTS
from tests.host.settings.test_overridden import QUIET

EXAMPLES = Path(simpletuner.__file__).parent / "examples"
COMMAND = Path(sys.executable).with_name("simpletuner-twinflow")
GOOD = [
    SEED,
    DIFF2FLOW,
    SEED | {"model_type": "full"},
    SEED | {"twinflow_enabled": False, "controlnet": True},
    SEED | {"twinflow_implementation": "host"},
    SEED | {"twinflow_role_shares": {"near": 1, "sampler_step": 2}, "twinflow_enhanced_range": [0.2, 1]},
    SEED | {"twinflow_time_sampling": "uniform", "twinflow_guidance_reference": "ema"},
]
BAD = [
    *(SEED | changes for changes, _ in CONFLICTS),
    SEED | {"use_ema": False, "twinflow_loss": "banana", "twinflow_delta_t": 9, "controlnet": True},
    SEED | {"twinflow_target_steps": 2},
    SEED | {"twinflow_enhanced_ratio": 0.5, "twinflow_guidance_scale": 2.0},
    SEED | {"model_family": "infinitetalk"},
    SEED | {"twinflow_enabled": "perhaps"},
]


@pytest.fixture
def folder(configuration_folder, tmp_path):
    """Where the host looks for what a config names; a dataset is there."""
    return tmp_path


def refusal(config):
    """The lines with which the host's start-up refuses a configuration; none where it takes it."""
    try:
        load(config)
    except TwinFlowConfigError as error:
        return sorted(error.problems)
    return []


def written(config):
    """A configuration's arguments by key, as the host reads them."""
    return {key: value for key, value in config.items() if value is not None}


@pytest.mark.parametrize("config", [*GOOD, *BAD], ids=range(len(GOOD) + len(BAD)))
@pytest.mark.usefixtures("folder")
def test_problems_are_the_start_ups(config):
    expected = refusal(config)
    assert bool(expected) == (config in BAD)
    assert sorted(examined(written(config))["problems"]) == expected


def examples():
    """The host's own example configs by name, without the one or two that are no JSON."""
    found = {}
    for path in sorted(EXAMPLES.glob("*/config.json")):
        with contextlib.suppress(json.JSONDecodeError):
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    assert len(found) > 100
    return found


@pytest.mark.parametrize("name", examples())
@pytest.mark.usefixtures("folder")
def test_the_hosts_own_examples_are_taken_or_refused_as_at_the_start(name):
    config = {key.lstrip("-"): value for key, value in examples()[name].items()}
    config |= {"twinflow_enabled": True, "use_ema": True}
    config.pop("data_backend_config", None)  # it names files of the user's
    config |= {"ramtorch": False, "attention_mechanism": "diffusers"}  # the host's parser asks for CUDA or a Mac
    if "lycoris_config" in config:
        config["lycoris_config"] = str(EXAMPLES / name / "lycoris_config.json")
    assert sorted(examined(written(config))["problems"]) == refusal(config)


def test_defaults_of_the_host_are_the_hosts():
    for key, value in HOST_DEFAULTS.items():
        assert field_registry._fields[key].default_value == value, key


@pytest.mark.usefixtures("folder")
def test_report_shows_where_each_value_comes_from_and_what_the_run_would_do():
    Path("data.json").write_text("[]", encoding="utf-8")
    config = SEED | QUIET | {"data_backend_config": "data.json"}
    report = examined(written(config))
    assert report["options"]["twinflow_target_step_count"] == {"value": 2, "from": "config"}
    assert report["options"]["twinflow_loss"] == {"value": "l2", "from": "default"}
    assert report["run"]["draws"] == "in 2 steps by Euler steps, without guidance"
    assert report["overridden"] == []
    assert report["run"]["memory"].startswith("an EMA as large as the trained weights, time conditioning")
    assert report["run"]["adapts"].startswith("the layers of the family's default, of most the attention alone")
    for named in (["to_q", "ff.net.2"], '["to_q", "ff.net.2"]'):
        adapts = examined(written(config | {"peft_lora_target_modules": named}))["run"]["adapts"]
        assert adapts == "peft_lora_target_modules to_q, ff.net.2"
    [line] = examined(written(config | {"validation_guidance": "7.5"}))["overridden"]
    assert "validation_guidance 7.5" in line
    without = {key: value for key, value in config.items() if key != "use_ema"}
    report = examined(written(without))
    assert (report["overridden"], report["run"]["teacher"]) == ([EMA_ADDED], "EMA of the trained weights, decay 0.995")
    assert "sdxl: supported" in examined(written(DIFF2FLOW))["run"]["family"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_train_steps": 20}, "does not measure the quality of few-step samples: for 64 of them"),
        (
            {"max_train_steps": 20, "twinflow_quality_interval": 5},
            "64 samples in 1, 2, 4 steps, by EMA and student, every 5",
        ),
        ({"max_train_steps": 1_000_000, "validation_steps": 7_000}, "every 7000 steps and at the end"),
        ({"max_train_steps": 1_000_000, "validation_steps": -10}, "every 2400 steps"),
        ({"max_train_steps": -1}, "which the datasets decide"),
        ({"max_train_steps": 1_000_000}, "; once the base, as long as"),
        ({"max_train_steps": None}, "which the datasets decide"),
        ({"max_train_steps": 10**30, "train_batch_size": 10**30}, "every 100 steps"),
        ({"twinflow_quality_samples": 0}, "not measured (twinflow_quality_samples 0)"),
    ],
)
def test_doctor_foretells_when_quality_is_measured(changes, words):
    config = {key: value for key, value in (SEED | QUIET | changes).items() if value is not None}
    if changes.get("max_train_steps", 0) is None:
        config.pop("max_train_steps", None)
    assert words in examined(written(config))["run"]["quality"]


@pytest.mark.usefixtures("folder")
def test_length_from_which_quality_is_measured_is_the_shortest_such_run():
    def said(steps):
        return examined(written(SEED | QUIET | {"max_train_steps": steps}))["run"]["quality"]

    enough = int(re.search(r"more than 3% of this run\. From max_train_steps (\d+) on", said(20))[1])
    assert "twinflow_quality_interval 20 once at the end" in said(20)
    assert said(enough - 1).startswith("TwinFlow does not measure")
    assert said(enough).startswith("TwinFlow measures 64 samples")


@pytest.mark.usefixtures("folder")
def test_doctor_names_the_copy_that_guidance_keeps_of_a_full_fine_tune():
    config = SEED | QUIET | {"model_type": "full", "twinflow_guidance_base_device": "cpu"}
    memory = examined(written(config))["run"]["memory"]
    assert "the base's first weights, once more, in their own dtype on the CPU" in memory
    assert "first weights" not in examined(written(config | {"twinflow_enhanced_ratio": 0.0}))["run"]["memory"]
    assert "adapts" not in {title for title, text in examined(written(config))["run"].items() if text}


@pytest.mark.usefixtures("folder")
def test_files_that_a_config_names_and_that_are_not_there_are_what_a_run_would_end_at():
    lycoris = {"lora_type": "lycoris", "lycoris_config": "config/mine.json"}
    config = SEED | QUIET | {"data_backend_config": "config/data.json"} | lycoris
    report = examined(written(config))
    assert report["problems"] == []
    assert [line.partition(":")[0] for line in report["missing"]] == [
        'data_backend_config is "config/data.json"',
        'lycoris_config is "config/mine.json"',
    ]
    assert all(f"seen from {Path.cwd()}" in line for line in report["missing"])
    Path("config").mkdir(exist_ok=True)
    for name in ("data", "mine"):
        Path(f"config/{name}.json").write_text("[]" if name == "data" else "{}", encoding="utf-8")
    assert examined(written(config))["missing"] == []
    assert examined(written(SEED | QUIET))["missing"] == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"max_train_steps": 199, "train_batch_size": 8},
            "max_train_steps is 199 with 8 rows a step, 1,592 rows in all",
        ),
        ({"max_train_steps": 200, "train_batch_size": 8}, None),
        ({"max_train_steps": 100, "gradient_accumulation_steps": 4, "train_batch_size": 4, "num_processes": 1}, None),
        ({"max_train_steps": 100, "train_batch_size": 8, "num_processes": 2}, None),
        ({"max_train_steps": 0}, None),
    ],
)
def test_run_that_is_far_too_short_is_said(changes, words):
    said = " ".join(examined(written(SEED | QUIET | {"gradient_accumulation_steps": 1} | changes))["overridden"])
    assert words in said if words else "rows in all" not in said


@pytest.mark.usefixtures("folder")
def test_family_that_trains_no_lora_says_at_once_what_its_full_fine_tune_would_refuse():
    config = {"model_family": "omnigen", "base_model_precision": "int8-quanto", "use_ema": True}
    config |= {"twinflow_enabled": True}
    for kind, count in (("lora", 2), ("full", 1)):
        problems = examined(config | {"model_type": kind})["problems"]
        assert len(problems) == count
        assert not any("train a LoRA" in line for line in problems)
        assert any('Way out: set it to "no_change".' in line for line in problems)


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "LoRA"}, ['model_type is "LoRA"']),
        ({"train_batch_size": float("inf")}, ["train_batch_size is"]),
        ({"train_batch_size": "abc"}, ['train_batch_size is "abc"']),
        ({"twinflow_loss": "banana"}, ['twinflow_loss is "banana"']),
        ({"twinflow_quality_samples": 1}, ["twinflow_quality_samples is 1", "0 for no measure"]),
        ({"max_train_steps": "inf"}, ['max_train_steps is "inf"']),
        ({"max_train_steps": 10**400}, ["max_train_steps is"]),
        ({"validation_step_interval": "nan"}, ['validation_step_interval is "nan"']),
        ({"validation_steps": 0.5}, ["validation_steps is 0.5"]),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.usefixtures("folder")
def test_what_it_cannot_count_with_is_a_problem_and_the_users_keys_are_shown_all_the_same(changes, words):
    report = examined(written(SEED | changes))
    [problem] = report["problems"]
    assert all(word in problem for word in words)
    assert report["options"]["twinflow_target_step_count"] == {"value": 2, "from": "config"}
    assert report["on"] is True


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
