"""Several processes: DDP leaves buffers alone, and a full model's checkpoint waits for nobody."""

import pytest
from accelerate.utils import DistributedType

from testbed.host_models.trainer import save_hooks


@pytest.mark.parametrize("enabled", [True, False])
def test_ddp_of_a_twinflow_run_does_not_broadcast_buffers(enabled, make_trainer):
    handler = make_trainer(twinflow_enabled=enabled).accelerator.ddp_handler
    assert (handler is not None and not handler.broadcast_buffers) == enabled


@pytest.mark.parametrize(
    ("enabled", "kind", "waits"),
    [
        (True, DistributedType.MULTI_GPU, 0),
        (True, DistributedType.DEEPSPEED, 0),
        (True, DistributedType.FSDP, 1),  # whose ranks save together
        (True, DistributedType.NO, 0),
        (False, DistributedType.MULTI_GPU, 1),
        (False, DistributedType.DEEPSPEED, 1),
    ],
)
def test_full_checkpoint_of_a_twinflow_run_waits_for_no_rank_that_has_gone_on(
    enabled, kind, waits, make_trainer, monkeypatch
):
    manager, waited = save_hooks(make_trainer(twinflow_enabled=enabled)), []
    monkeypatch.setattr(manager.accelerator, "wait_for_everyone", lambda: waited.append(kind))
    manager._save_full_model([], [], "out", is_main_process=False, distributed_type=kind)
    assert waited == [kind] * waits
