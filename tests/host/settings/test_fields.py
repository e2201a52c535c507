"""The keys through the host's real parser: accepted, refused by name, and shown in the web UI's registry."""

import json

import pytest
from simpletuner.helpers.configuration import cmd_args
from simpletuner.simpletuner_sdk.server.services.field_registry import registry as registry_module
from simpletuner.simpletuner_sdk.server.services.field_registry.registry import FieldRegistry, field_registry

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.declaration import limits
from simpletuner_twinflow.host import changes
from simpletuner_twinflow.host.settings.fields import add_fields
from simpletuner_twinflow.options import PREFIX
from tests.host.settings.configs import REQUIRED_BY_HOST, SAMPLES, SEED, load

pytestmark = pytest.mark.usefixtures("configuration_folder")
DOCUMENTED = {
    "enabled": False,
    "target_step_count": 1,
    "estimate_order": 2,
    "enhanced_ratio": 0.5,
    "delta_t": 0.01,
    "target_clamp": 1.0,
    "require_ema": True,
    "allow_no_ema_teacher": False,
    "allow_diff2flow": False,
    "adversarial_enabled": False,
    "adversarial_weight": 1.0,
    "rectify_weight": 1.0,
}


def test_registry_has_the_hosts_own_fields_again_when_the_plugin_is_detached(monkeypatch):
    for name in ("_changes", "_covered", "_callbacks"):
        monkeypatch.setattr(changes, name, [])
    registry = FieldRegistry()
    monkeypatch.setattr(registry_module, "field_registry", registry)

    def held():
        return dict(registry._fields), {key: list(names) for key, names in registry._dependencies_map.items()}

    fields, dependents = held()
    add_fields.attach(registry_module)
    assert {PREFIX + name for name in TwinFlowOptions.names()} - {*fields} <= {*registry._fields}
    assert registry._fields["twinflow_enabled"] is not fields["twinflow_enabled"]
    assert held()[1] != dependents
    changes.undo()
    assert held() == (fields, dependents)
    assert all(registry._fields[name] is field for name, field in fields.items())


def test_documented_quick_start_config_is_accepted_unchanged():
    config = load(SEED)
    for key, value in SEED.items():
        if value is not None and key not in ("model_type", "mixed_precision"):
            assert getattr(config, key) == value, key


def test_every_documented_key_has_its_documented_default():
    config = load({key: value for key, value in SEED.items() if not key.startswith(PREFIX)})
    assert {name: getattr(config, PREFIX + name) for name in DOCUMENTED} == DOCUMENTED


def test_config_without_the_keys_is_off():
    assert load({key: value for key, value in SEED.items() if not key.startswith(PREFIX)}).twinflow_enabled is False


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_sample_configs_pass_the_hosts_parser(path):
    given = json.loads(path.read_text(encoding="utf-8"))
    arguments = [
        f"--{key}={json.dumps(value) if isinstance(value, bool | list) else value}"
        for key, value in given.items()
        if value is not None
    ]
    config = cmd_args.parse_cmdline_args(arguments + [f"--{key}={value}" for key, value in REQUIRED_BY_HOST.items()])
    assert {key: getattr(config, key) for key in given if key.startswith(PREFIX)} == {
        key: value for key, value in given.items() if key.startswith(PREFIX)
    }


OUT_OF_RANGE = [
    ("target_step_count", 0, "1 to 8"),
    ("target_step_count", 50, "1 to 8"),
    ("estimate_order", 0, "1 to 8"),
    ("enhanced_ratio", -0.5, "0 to below 1"),
    ("enhanced_ratio", 1.0, "1 / (1 - ratio)"),
    ("delta_t", 0.0, "0.0001 to 0.5"),
    ("target_clamp", 0.0, "0.001 to 100"),
    ("adversarial_weight", -1.0, "0 to 100"),
    ("rectify_weight", "nan", "0 to 100"),
    ("trajectory_interval", -1, "0 to 1000000"),
    ("enhanced_range", [0.8, 0.2], "[low, high]"),
    ("role_shares", {"onestep": 1}, "one_step, near, any_step, twin"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), OUT_OF_RANGE)
def test_value_out_of_range_is_refused_in_one_line(name, value, allowed):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(SEED, **{PREFIX + name: value})
    message = str(refusal.value)
    shown = json.dumps(value) if isinstance(value, list | dict) else str(value)
    for words in (PREFIX + name, shown, allowed, "Set it to"):
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("twinflow_step_count", "twinflow_target_step_count"),
        ("twinflow_e", "twinflow_enabled"),
        ("twinflow_delta", "twinflow_delta_t"),
    ],
)
def test_misspelt_key_is_named_with_the_nearest_right_one(misspelt, meant):
    with pytest.raises(TwinFlowConfigError, match=rf"{misspelt} is not a TwinFlow key; did you mean \w+"):
        load(SEED, **{misspelt: 2})


def test_lists_and_objects_pass_the_hosts_parser():
    given = {"twinflow_enhanced_range": [0.2, 0.8], "twinflow_role_shares": {"near": 1, "sampler_step": 3}}
    options = TwinFlowOptions.from_mapping(vars(load(SEED, **given)))
    assert options.enhanced_range == (0.2, 0.8)
    assert options.role_shares == given["twinflow_role_shares"]


def test_the_hosts_parser_can_print_its_help():
    """argparse takes a percent sign in a help text for the start of a format."""
    text = cmd_args.get_argument_parser().format_help()
    assert all(f"--{PREFIX}{name}" in text for name in TwinFlowOptions.names())


@pytest.mark.parametrize("name", TwinFlowOptions.names())
def test_every_key_is_in_the_registry_that_feeds_the_web_ui(name):
    field, info = field_registry.get_field(PREFIX + name), TwinFlowOptions.info(name)
    default, own = field.default_value, TwinFlowOptions.model_fields[name].default
    assert default == own or json.loads(default) == list(own)
    assert field.ui_label == f"TwinFlow: {info.label}"
    assert TwinFlowOptions.help(name) in field.help_text
    low, high, _ = limits(TwinFlowOptions.model_fields[name])
    assert {rule.value for rule in field.validation_rules} == {low, high} - {None}
    assert {dependency.field for dependency in field.dependencies} == set(info.requires)
    assert all(dependency.value is True for dependency in field.dependencies)


def test_fields_with_a_page_in_the_hosts_documentation_lead_there():
    leads = {name: field_registry.get_field(PREFIX + name).documentation for name in TwinFlowOptions.names()}
    assert leads["enabled"] == "OPTIONS.md#--twinflow_enabled"  # as the host's own field
    assert leads["target_step_count"] == "OPTIONS.md#--twinflow_target_step_count"
    assert {name for name, page in leads.items() if page} == DOCUMENTED.keys()


def test_default_of_every_key_is_one_that_any_tracker_records():
    """TensorBoard takes no list, and these are in the configuration of runs without TwinFlow too."""
    config = load({key: value for key, value in SEED.items() if not key.startswith(PREFIX)})
    values = {name: getattr(config, PREFIX + name) for name in TwinFlowOptions.names()}
    assert [name for name, value in values.items() if not isinstance(value, bool | int | float | str | None)] == []
