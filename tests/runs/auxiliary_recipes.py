"""Runs with the host's auxiliary losses, plain and as TwinFlow; the picture encoder is a tiny one in torch's hub."""

from testbed.picture_encoder import put_encoder
from testbed.trainer import without_twinflow
from tests.runs.harness import FULL, SEED, TINY, Host, Probe, Runs
from tests.runs.observer.probes.auxiliary import note_auxiliary_losses
from tests.runs.run import Run

AUXILIARY = {
    "crepa_enabled": True,
    "crepa_block_index": 1,
    "crepa_encoder": "dinov2_vits14",
    "crepa_encoder_image_size": 56,
    "layersync_enabled": True,
    "layersync_student_block": 1,
    "layersync_teacher_block": 3,
}
ROWS = {"train_batch_size": 8, "gradient_accumulation_steps": 1, "max_train_steps": 3, "checkpointing_steps": 3}
QUIET = {"validation_disable": True}


def auxiliary(host: Host, runs: Runs) -> dict[str, Run]:
    """Three steps of a LoRA plain and as TwinFlow, and of a full fine-tune without CREPA, with everything on."""
    home = put_encoder(host.folder / "torch_home")

    def train(name: str, config: dict, probe: Probe | None = None) -> Run:
        config = AUXILIARY | QUIET | config
        return host.train(f"auxiliary_{name}", config, environment={"TORCH_HOME": str(home)}, probe=probe)

    everything = SEED | TINY | ROWS | {"twinflow_adversarial_enabled": True}
    wide = everything | {"lora_rank": 16}  # and the encoder is 12 wide
    train("resumed", wide)
    alone = {"train_batch_size": 1, "max_train_steps": 8, "checkpointing_steps": 8}
    return {
        "alone": train("alone", everything | alone, probe=note_auxiliary_losses),
        "resumed": train("resumed", wide | {"max_train_steps": 4, "resume_from_checkpoint": "latest"}),
        "plain": train("plain", without_twinflow(SEED) | TINY | ROWS),
        "TwinFlow": train("twinflow", everything, probe=note_auxiliary_losses),
        "full": train("full", everything | FULL | {"crepa_enabled": False}),
    }


AUXILIARY_RECIPES = {"auxiliary": auxiliary}
