"""Runs of the real host for what is exported: both model types, both kinds of weights, with and without EMA."""

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.run import Run

# One picture a prompt, of the exported weights, with no benchmark or comparison drawn beside it. The host validates an
# adapter with its dropout on, which no exported adapter repeats.
EMA_PICTURES = {"ema_validation": "ema_only", "lora_dropout": 0.0}
STUDENT_PICTURES = {"ema_validation": "none"}


def export_lora(host: Host, runs: Runs) -> Run:
    """Exports EMA by default; an alpha that is not the rank, and a start that changes the base's weights."""
    adapter = {"lora_alpha": 32, "lora_init_type": "pissa"}
    return host.train("export_lora", SEED | TINY | EMA_PICTURES | adapter)


def export_lora_without_ema(host: Host, runs: Runs) -> Run:
    """Nothing but the student to export."""
    without = {"use_ema": False, "twinflow_require_ema": False, "max_train_steps": 2}
    return host.train("export_lora_without_ema", SEED | TINY | without)


def export_full_student(host: Host, runs: Runs) -> Run:
    """A full fine-tune that exports the student, drawn in one step."""
    student = {"twinflow_export_weights": "student", "twinflow_target_step_count": 1}
    return host.train("export_full_student", SEED | TINY | FULL | STUDENT_PICTURES | student)


EXPORT_RECIPES = {recipe.__name__: recipe for recipe in (export_lora, export_lora_without_ema, export_full_student)}
