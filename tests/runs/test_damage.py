"""Damaged and unfinished checkpoints are named and passed over, and no good one is lost with them."""

import pytest
import torch

from tests.runs.damage_recipes import BEFORE, DAMAGES, NEWEST, OTHER_NETWORKS
from tests.runs.test_resume import losses, tensors


@pytest.mark.host_runs("whole", "damaged")
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_deleted_by_name_and_the_good_one_before_it_resumed(name, runs):
    run = runs["damaged"][name].check()
    file, _ = DAMAGES[name]
    [line] = [line for line in run.log.splitlines() if "SimpleTuner deletes this checkpoint" in line]
    assert f"output/{NEWEST}/{file}" in line
    assert not (run.output / NEWEST).exists()
    assert (run.output / BEFORE / ".guard").exists()
    assert losses(run) == {3: losses(runs["whole"])[3]}


@pytest.mark.host_runs("whole", "damaged_kept")
def test_damaged_checkpoint_that_is_not_to_be_deleted_ends_the_run_with_the_file_and_the_way_out(runs):
    run = runs["damaged_kept"]
    assert run.code == 1
    assert f"output/{NEWEST}/pytorch_lora_weights.safetensors is missing" in run.log
    assert "delete_invalid_checkpoints" in run.log
    assert (run.output / NEWEST).is_dir()
    assert losses(run) == {}


@pytest.mark.host_runs("whole", "other_networks")
@pytest.mark.parametrize(("key", "found"), [*zip(OTHER_NETWORKS, ("4, ", "'full', "), strict=True)])
def test_whole_checkpoint_that_does_not_fit_the_config_is_not_deleted(key, found, runs):
    run = runs["other_networks"][key]
    assert run.code == 1
    assert f"output/{NEWEST} holds an adapter" in run.log
    assert f"{key} is {found}so this run cannot go on from it" in run.log
    assert all((run.output / name / ".guard").exists() for name in (NEWEST, BEFORE))
    assert losses(run) == {}


@pytest.mark.host_runs("whole", "all_scrambled")
def test_run_whose_last_checkpoint_fails_halfway_does_not_train_on_what_was_loaded_of_it(runs):
    run = runs["all_scrambled"]
    assert run.code == 1
    assert f"output/{BEFORE} was damaged in the middle of a file" in run.log
    assert losses(run) == {}


@pytest.mark.host_runs("whole", "comfyui")
def test_adapter_in_comfyui_s_format_is_resumed_at_its_own_scale(runs):
    """The host would go on with alpha / sqrt(rank), here 2.8 times as much."""
    run = runs["comfyui"].check()
    assert losses(run) == {3: losses(runs["whole"])[3]}
    assert "scaled by alpha / rank, 1, as in training" in run.log


@pytest.mark.host_runs("whole", "borrowed_rank_1")
def test_ema_of_another_rank_is_not_stretched_over_the_adapter(runs):
    run = runs["borrowed_rank_1"]
    assert run.code == 1
    assert "init_lora_ema is " in run.log
    assert "of shape (1, 128) where this run trains (8, 128)" in run.log
    assert losses(run) == {}


@pytest.mark.host_runs("whole", "killed_first")
def test_run_killed_in_its_first_checkpoint_starts_from_the_beginning_and_says_so(runs):
    killed, resumed = runs["killed_first"]
    assert killed.code == -9
    assert "the run starts from the beginning" in resumed.check().log
    assert "without TwinFlow" not in resumed.log
    # Not to the bit: this run finds the caches, which the first one had to fill.
    assert [*losses(resumed)] == [1, 2]
    assert (resumed.output / "checkpoint-2/.guard").exists()


@pytest.mark.host_runs("whole", "other_options")
def test_options_that_have_changed_are_listed_in_one_line(runs):
    log = runs["other_options"].check().log
    [line] = [line for line in log.splitlines() if "was trained with other settings" in line]
    for change in (
        'twinflow_time_conditioning "training_only" -> "signed_time"',
        "twinflow_target_step_count 2 -> 4",
        "twinflow_estimate_order 2 -> 1",
        "twinflow_adversarial_enabled true -> false",
        "caption_dropout_probability 0.0 -> 0.2",
        "ema_decay 0.99 -> 0.9",
    ):
        assert change in line
    assert "seed" not in line
    assert "has trained twinflow_target_time" in log
    [left_out] = [line for line in log.splitlines() if "has trained transformer_blocks.0.attn.to_k.lora_A" in line]
    assert "more parameters, which this run leaves out" in left_out


@pytest.mark.host_runs("whole", "other_options")
def test_averages_follow_the_configs_decay_after_a_resume(runs):
    """The host would go on with the checkpoint's."""
    [step] = losses(runs["other_options"]).values()
    state = tensors(runs["whole"].output / NEWEST / "transformer_ema/ema_model.pt")
    assert state["/decay"] == 0.99
    assert step.get("ema_decay_value", 0.0) <= 0.9


@pytest.mark.host_runs("borrowed_ema")
def test_ema_of_a_plain_run_starts_a_twinflow_run_and_the_other_way_round(runs):
    plain, ours, after = (run.check() for run in runs["borrowed_ema"])
    file = "checkpoint-2/transformer_ema/ema_model.pt"
    counts = {sum("shadow_params" in key for key in tensors(run.output / file)) for run in (plain, ours, after)}
    assert counts == {24}
    assert "EMA model state loaded from" in ours.log
    assert "EMA model state loaded from" in after.log
    averages = torch.load(ours.output / "checkpoint-2/twinflow/time_conditioning.pt", weights_only=True)["averages"]
    assert len(averages) == 5


@pytest.mark.host_runs("whole")
def test_nothing_of_ours_lies_where_a_loader_looks_for_an_adapter(runs):
    folder = runs["whole"].output / NEWEST
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")} == {
        "pytorch_lora_weights.safetensors",
        "ema/pytorch_lora_weights.safetensors",
    }
