"""What a run that shares a batch's tokens is refused for, and with which models it is accepted."""

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.host.settings.context_parallel import CONTEXT_CONFLICTS, IN_PARTS, OTHER_IN_PARTS
from simpletuner_twinflow.host.settings.families import FAMILIES
from tests.host.settings.configs import SEED, load

pytestmark = pytest.mark.usefixtures("configuration_folder")
WAN = {"model_family": "wan", "model_flavour": "t2v-480p-1.3b-2.1"}
IN_GROUPS = {"context_parallel_size": 2, "context_parallel_comm_strategy": "alltoall"}
REFUSED = [
    ({"context_parallel_comm_strategy": "allgather"}, ['"allgather"', "no gradient", 'set it to "alltoall"']),
    (
        {"fsdp_enable": True, "validation_disable": True},
        ["fsdp_enable", "not been tried", "context_parallel_size to 1"],
    ),
    ({"eval_steps_interval": 10}, ["eval_steps_interval is 10", "on one process alone", "remove it"]),
    ({"deepspeed_config": {"zero_optimization": {"stage": 2}}}, ["deepspeed_config", "has not been tried"]),
    ({"validation_multigpu": "single-gpu"}, ['"single-gpu"', "benchmark", "batch-parallel"]),
    ({"tread_config": '{"routes": []}'}, ["tread_config", "not been tried with context_parallel_size", "remove it"]),
    ({"crepa_enabled": True}, ["crepa_enabled", "not been tried", "set it to false"]),
    ({"layersync_enabled": True}, ["layersync_enabled", "not been tried", "set it to false"]),
    ({"musubi_blocks_to_swap": 2}, ["musubi_blocks_to_swap is 2", "not been tried", "set it to 0"]),
]


def problems(**changes):
    """Of a Wan run in groups of two, asked of the check itself, past what the host's own parser would refuse."""
    config = vars(load(SEED)) | WAN | IN_GROUPS | changes
    return [*conflicts(config, TwinFlowOptions.from_mapping(config))]


def test_how_validation_would_be_shared_matters_to_a_run_that_validates():
    key = {"validation_multigpu": "single-gpu"}
    assert len(problems(**key)) == 1
    assert problems(**key, validation_disable=True) == []


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[next(iter(changes)) for changes, _ in REFUSED])
def test_what_does_not_work_in_groups_is_refused_by_name_with_the_way_out(changes, words):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(SEED, **WAN | IN_GROUPS | changes)
    assert all(word in str(refusal.value) for word in words)
    assert not [problem for problem in problems(**changes | {"context_parallel_size": 1}) if "context" in problem]


def test_every_row_is_tried_here():
    assert {row.key for row in CONTEXT_CONFLICTS} - {key for changes, _ in REFUSED for key in changes} == {"ramtorch"}
    [problem] = problems(ramtorch=True)
    assert "ramtorch is true" in problem
    assert "not been tried" in problem


def test_the_hosts_default_of_the_exchange_is_refused():
    assert "context_parallel_comm_strategy" in problems(context_parallel_comm_strategy=None)[0]


@pytest.mark.parametrize("model_type", ["lora", "full"])
def test_wan_is_accepted_in_groups(model_type):
    assert load(SEED, **WAN | IN_GROUPS, model_type=model_type).twinflow_enabled


@pytest.mark.parametrize("size", [None, 1, "1", 1.0])
def test_a_group_of_one_is_none(size):
    assert problems(model_family="sd3", model_flavour="medium", context_parallel_size=size) == []


def test_a_family_that_cannot_be_shared_is_refused_with_the_reason_and_those_that_can():
    assert IN_PARTS | {*OTHER_IN_PARTS} <= {*FAMILIES}
    assert not IN_PARTS & {*OTHER_IN_PARTS}
    for family in ("sd3", *OTHER_IN_PARTS):
        found = [line for line in problems(model_family=family, model_flavour=None) if "context_parallel_size" in line]
        reason = OTHER_IN_PARTS.get(family, "SimpleTuner itself")
        assert len(found) == 1
        assert f'context_parallel_size is 2 with model_family "{family}"' in found[0]
        assert reason in found[0]
        assert "set context_parallel_size to 1, or train one of: longcat_image, wan, z_image, z_image_omni" in found[0]


def test_the_host_ends_with_the_flavour_of_longcat_that_edits():
    assert problems(model_family="longcat_image", model_flavour=None) == []
    [problem] = problems(model_family="longcat_image", model_flavour="edit")
    assert 'model_flavour "edit"' in problem
