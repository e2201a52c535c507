"""A checkpoint that does not fit is refused before DeepSpeed loads any of it; whole runs: `make deepspeed`."""

from types import ModuleType, SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from simpletuner_twinflow.host.checkpoints import sharded_resume
from simpletuner_twinflow.host.checkpoints.deepspeed_files import refuse_other_ranks
from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained

TRAINED = Trained([], [["other parameter 0"]], ["a"])


def test_parts_of_another_number_of_ranks_are_refused(tmp_path):
    run = SavedRun("1", TRAINED, {"processes": 4})
    refuse_other_ranks(tmp_path, run, 4)
    refuse_other_ranks(tmp_path, None, 2)
    with pytest.raises(OtherRunError, match="of 4 processes, and the number of processes is 2"):
        refuse_other_ranks(tmp_path, run, 2)


class Accelerator:
    """Notes what it is asked to load."""

    def __init__(self, kind: DistributedType) -> None:
        self.distributed_type, self.loaded = kind, []

    def load_state(self, input_dir: str | None = None, **options: object) -> str:
        self.loaded.append((input_dir, options))
        return "loaded"


@pytest.mark.parametrize(
    ("kind", "checked"), [(DistributedType.DEEPSPEED, ["somewhere"]), (DistributedType.MULTI_GPU, [])]
)
def test_a_checkpoint_is_looked_at_before_deepspeed_loads_it(kind, checked, monkeypatch):
    seen, host = [], ModuleType("host")

    def resume(self):
        return self.accelerator.load_state("somewhere", strict=True)

    host.Trainer = type("Trainer", (), {"init_resume_checkpoint": resume})
    sharded_resume.look_before_parts_load.attach(host)
    trainer = host.Trainer()
    trainer.accelerator, trainer.config = Accelerator(kind), SimpleNamespace(twinflow_enabled=True)

    def refuse(folder, trainer):
        assert trainer.accelerator.loaded == []
        seen.append(str(folder))

    monkeypatch.setattr(sharded_resume, "refuse_before_loading", refuse)
    assert trainer.init_resume_checkpoint() == "loaded"
    assert trainer.accelerator.loaded == [("somewhere", {"strict": True})]
    assert seen == checked
