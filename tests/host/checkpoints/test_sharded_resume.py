"""Where a run is sharded, a damaged checkpoint is refused before any of it is loaded."""

from types import SimpleNamespace

import pytest
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.files import STATE

LoadedError = type("LoadedError", (Exception,), {})


class Accelerator(SimpleNamespace):
    """What the host asks of Accelerate's until it has loaded a checkpoint."""

    is_main_process, num_processes = True, 2

    def wait_for_everyone(self):
        """Alone."""

    def load_state(self, folder):
        """Where the host's own code is not looked at any further."""
        raise LoadedError(folder)


@pytest.fixture
def resume(tmp_path):
    """Resumes from a checkpoint whose state holds this text."""

    def run(state, *, sharded=True, enabled=True):
        checkpoint = tmp_path / "checkpoint-2"
        checkpoint.mkdir()
        (checkpoint / STATE).write_text(state, encoding="utf-8")
        given = {"resume_from_checkpoint": str(checkpoint), "delete_invalid_checkpoints": False, "use_ema": True}
        sizes = {"max_train_steps": 4, "output_dir": str(tmp_path), "twinflow_enabled": enabled, "model_type": "lora"}
        trainer = Trainer.__new__(Trainer)
        trainer.config, trainer.accelerator = SimpleNamespace(**given, **sizes), Accelerator(is_fsdp2=sharded)
        trainer.state = {"first_epoch": 1, "global_step": 0}
        trainer.init_resume_checkpoint(None)

    return run


def test_damaged_checkpoint_is_refused_by_name_and_none_of_it_loaded(resume):
    with pytest.raises(TwinFlowError, match=rf"checkpoint-2/{STATE} is damaged .*Set resume_from_checkpoint"):
        resume("{")


@pytest.mark.parametrize(
    ("state", "run"),
    [('{"global_step": 2}', {}), ("{", {"sharded": False}), ("{", {"enabled": False})],
    ids=["whole", "not sharded, which the host's hook looks at", "without TwinFlow"],
)
def test_other_checkpoint_is_loaded(state, run, resume):
    with pytest.raises(LoadedError, match="checkpoint-2"):
        resume(state, **run)
