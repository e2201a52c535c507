"""What is said of a configuration before a run is what a run's start-up says of it."""

import contextlib
import json
import re
from pathlib import Path

import pytest
import simpletuner
from simpletuner.simpletuner_sdk.server.services.field_registry.registry import field_registry

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.settings.examined import HOST_DEFAULTS, examined
from simpletuner_twinflow.host.settings.given import EMA_ADDED
from tests.host.settings.configs import DIFF2FLOW, SEED, load
from tests.host.settings.test_conflicts import CONFLICTS
from tests.host.settings.test_overridden import QUIET

EXAMPLES = Path(simpletuner.__file__).parent / "examples"
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
def test_a_lora_to_start_from_that_is_not_there_is_what_a_run_would_end_at():
    config = SEED | QUIET | {"init_lora": "some/lora.safetensors"}
    [line] = examined(written(config))["missing"]
    assert line.startswith('init_lora is "some/lora.safetensors": there is no such file')
    assert examined(written(config | {"model_type": "full"}))["missing"] == []


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
