"""What the tests of host modules share: a folder that the host reads, and the host's trainer around a tiny model."""

import pytest

from testbed.host_models.flow import host_batch, host_model, pipeline_folder
from testbed.host_models.trainer import host_trainer, save_hooks

LORA = {"model_type": "lora", "lora_rank": 2, "train_batch_size": 4}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """What a model reads of a pipeline before its network is loaded."""
    return pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def in_folder(folder, monkeypatch):
    """The host looks for files that a config names in the working directory."""
    monkeypatch.chdir(folder)


@pytest.fixture
def make_trainer(folder, in_folder):
    """Makes trainers of tiny SD3 adapters; takes changes to the config."""
    return lambda **changes: host_trainer(host_model("sd3", folder, **LORA | changes))


@pytest.fixture
def trainer(make_trainer):
    """A TwinFlow run's trainer."""
    return make_trainer()


@pytest.fixture
def batch(trainer):
    """A host batch of four samples for it."""
    return host_batch(trainer.model)


@pytest.fixture
def save(tmp_path):
    """Saves a trainer's checkpoint by the host's own hooks, finished; returns its folder."""

    def write(trainer, name="checkpoint-2"):
        checkpoint = tmp_path / name
        checkpoint.mkdir()
        save_hooks(trainer).save_model_hook([trainer.model.get_trained_component()], [None], str(checkpoint))
        trainer.distiller.on_save_checkpoint(2, str(checkpoint))
        (checkpoint / ".guard").touch()
        return checkpoint

    return write
