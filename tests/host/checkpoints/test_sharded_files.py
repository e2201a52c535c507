"""Shards are loaded by a run that is sharded and trains the same; any other is refused, and nothing is deleted."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from simpletuner_twinflow.host.checkpoints.ema import EMA_SETTINGS
from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained
from simpletuner_twinflow.host.checkpoints.sharded_files import (
    PARTS,
    SHARDS,
    own_settings,
    refuse_other_layout,
    refuse_other_shards,
)

TRAINED = Trained(["twinflow_target_time.weight"], [["a"]], ["a", "twinflow_target_time.weight"])
CONFIG = SimpleNamespace(twinflow_enabled=True, twinflow_time_conditioning="training_only", model_type="lora")


@pytest.mark.parametrize(("saved", "now"), [(True, False), (False, True)])
def test_shards_and_whole_files_are_not_taken_for_each_other(saved, now, tmp_path):
    if saved:
        (tmp_path / SHARDS).mkdir()
    manager = SimpleNamespace(accelerator=SimpleNamespace(is_fsdp2=now), args=SimpleNamespace(fsdp_enable=now))
    with pytest.raises(OtherRunError, match=rf"fsdp_enable is {now}.*Set fsdp_enable as it was"):
        refuse_other_layout(tmp_path, manager)
    manager.accelerator.is_fsdp2 = saved
    refuse_other_layout(tmp_path, manager)


@pytest.mark.parametrize(("saved", "now"), [(True, False), (False, True)])
def test_parts_of_deepspeed_and_other_files_are_not_taken_for_each_other(saved, now, tmp_path):
    def run(by_deepspeed: bool) -> SimpleNamespace:
        kind = DistributedType.DEEPSPEED if by_deepspeed else DistributedType.MULTI_GPU
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2))
        return SimpleNamespace(accelerator=SimpleNamespace(distributed_type=kind, state=state), args=SimpleNamespace())

    if saved:
        (tmp_path / PARTS).mkdir()
    held = "the optimizer in DeepSpeed's parts.*is None" if saved else "no files of DeepSpeed.*is 'one of ZeRO 2'"
    with pytest.raises(OtherRunError, match=rf"{held}.*Set deepspeed_config as it was"):
        refuse_other_layout(tmp_path, run(now))
    refuse_other_layout(tmp_path, run(saved))


def test_shards_of_what_is_trained_are_accepted(tmp_path):
    refuse_other_shards(tmp_path, SavedRun("1", TRAINED, {}), TRAINED, CONFIG)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (None, "without TwinFlow"),
        (SavedRun("1", TRAINED.without(["twinflow_target_time.weight"]), {}), "twinflow_time_conditioning is"),
        (SavedRun("1", Trained(TRAINED.time_conditioning, [["b"]], ["b"]), {}), "of other parameters .*model_type is"),
    ],
)
def test_shards_of_another_run_are_refused(run, words, tmp_path):
    with pytest.raises(OtherRunError, match=words):
        refuse_other_shards(tmp_path, run, TRAINED, CONFIG)


@pytest.mark.parametrize("keep", [True, False])
def test_decay_is_the_runs_own_and_the_step_the_checkpoints(keep):
    ema = type("EMAModel", (), {})()
    for key in (*EMA_SETTINGS, "optimization_step"):
        setattr(ema, key, 1)
    with own_settings(ema, keep=keep):
        ema.decay, ema.optimization_step = 2, 2
    assert (ema.decay, ema.optimization_step) == (1 if keep else 2, 2)
