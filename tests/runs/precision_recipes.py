"""Runs of the real host in low precision, with a quantised base and with recomputed activations."""

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes.training_step import note_each_step
from tests.runs.run import Run

LOW = {
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
    "twinflow_adversarial_enabled": True,
    "validation_disable": True,
    "max_train_steps": 3,
    "checkpointing_steps": 3,
}
BATCHED = {"train_batch_size": 4, "gradient_accumulation_steps": 1}


def low_lora(host: Host, runs: Runs) -> Run:
    """LoRA in bf16 on an int8 base, with gradient checkpointing."""
    quantised = {"base_model_precision": "int8-quanto"}
    return host.train("low_lora", SEED | TINY | LOW | BATCHED | quantised, probe=note_each_step)


def low_full(host: Host, runs: Runs) -> Run:
    """Full fine-tune in bf16, with gradient checkpointing."""
    return host.train("low_full", SEED | TINY | FULL | LOW | BATCHED, probe=note_each_step)


def compiled_lora(host: Host, runs: Runs) -> Run:
    """LoRA with the network compiled by torch.compile, without the C++ compiler that a CPU's kernels would need."""
    compiled = {"dynamo_backend": "aot_eager", "max_train_steps": 3, "checkpointing_steps": 3}
    config = SEED | TINY | BATCHED | {"twinflow_adversarial_enabled": True, "validation_disable": True} | compiled
    return host.train("compiled_lora", config, probe=note_each_step, environment={"TORCHDYNAMO_DISABLE": "0"})


PRECISION_RECIPES = {recipe.__name__: recipe for recipe in (low_lora, low_full, compiled_lora)}
