"""Sharded runs: what is refused at the start, and what is mended; whole runs are in tests/runs/test_sharded.py."""

from types import ModuleType, SimpleNamespace

import pytest
import simpletuner.helpers.training.ema as ema_module
import simpletuner.helpers.training.trainer as trainer_module
import torch
from accelerate.utils import DistributedType
from torch import nn

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.training import sharded

sharded.attach_to_ema(ema_module)
sharded.attach_to_start(trainer_module)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.MEGATRON_LM])
def test_other_kinds_of_shards_are_refused_however_they_were_switched_on(kind):
    trainer = trainer_module.Trainer.__new__(trainer_module.Trainer)
    trainer.accelerator = SimpleNamespace(distributed_type=kind, is_fsdp2=False)
    trainer.config = SimpleNamespace(twinflow_enabled=True)
    with pytest.raises(TwinFlowConfigError, match=rf"{kind.value}.*fsdp_version to 2"):
        trainer.init_distillation()


def with_deepspeed(stage: object) -> SimpleNamespace:
    """An accelerator whose run DeepSpeed trains with this stage of ZeRO."""
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage))
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, is_fsdp2=False, state=state)


@pytest.mark.parametrize(("stage", "reason"), [(0, "only stages 1 and 2"), (3, "splits the weights themselves")])
def test_other_stages_of_zero_are_refused_however_they_were_chosen(stage, reason):
    trainer = trainer_module.Trainer.__new__(trainer_module.Trainer)
    trainer.accelerator, trainer.config = with_deepspeed(stage), SimpleNamespace(twinflow_enabled=True)
    with pytest.raises(TwinFlowConfigError, match=rf"ZeRO stage {stage}.*{reason}.*choose stage 1 or 2"):
        trainer.init_distillation()


@pytest.mark.parametrize("stage", [1, 2])
def test_stages_1_and_2_of_zero_start(stage):
    trainer, started = trainer_module.Trainer.__new__(trainer_module.Trainer), []
    trainer.accelerator, trainer.config = with_deepspeed(stage), SimpleNamespace(twinflow_enabled=True)
    host = ModuleType("host")
    host.Trainer = type("Trainer", (), {"init_distillation": lambda self: started.append(self)})
    sharded.attach_to_start(host)
    host.Trainer.init_distillation(trainer)
    assert started == [trainer]
    assert sharded.is_deepspeed(trainer.accelerator)
    assert sharded.zero_stage(trainer.accelerator) == stage
    assert sharded.zero_stage(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)) is None


def test_averages_are_copied_and_restored_without_a_gradient():
    asked = []
    weight = nn.Parameter(torch.ones(2))
    model = ema_module.EMAModel(SimpleNamespace(twinflow_enabled=True), None, [weight], foreach=False)
    model._align_shadow_params = lambda *_, **__: asked.append(torch.is_grad_enabled()) or []
    model.store([weight])
    model.copy_to([weight])
    model.args.twinflow_enabled = False
    model.copy_to([weight])
    assert asked == [False, True]


def test_no_run_without_accelerate_is_taken_for_a_sharded_one():
    assert not sharded.is_fsdp2(SimpleNamespace())
    assert not sharded.is_fsdp2(None)
