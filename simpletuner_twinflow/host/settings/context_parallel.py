"""What cannot be combined with context parallelism, in which a group of processes shares the tokens of one batch.

Found by trying, with SimpleTuner 4.10 and diffusers 0.42: `python -m testbed.host_models.in_parts`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import Conflict, is_positive, is_several

KEY = "context_parallel_size"
# Families whose network computes in parts what it computes whole, output and gradients.
IN_PARTS = frozenset({"wan", "z_image", "z_image_omni", "longcat_image"})
# Those for which SimpleTuner trains something else in parts, and does not say so.
OTHER_IN_PARTS = {
    "chroma": "its network's output in parts is not that of the whole",
    "qwen_image": "its network's output in parts is not that of the whole",
    "ltxvideo2": "each process's part of the picture sees its own part of the sound alone",
    "ernie": "some of its gradients are counted once a process",
}
ENDS = "SimpleTuner itself cannot share this family's tokens and ends, with TwinFlow or without"
UNTRIED = "it has not been tried with context_parallel_size"
DRAWN = (  # of a run that validates
    Conflict(
        "validation_multigpu",
        "the base's benchmark would be drawn by one process alone, which would wait for the others for ever",
        'set it to "batch-parallel"',
        lambda value: value not in (None, "", "batch-parallel"),
    ),
)
CONTEXT_CONFLICTS = (
    Conflict(
        "context_parallel_comm_strategy",
        "SimpleTuner's allgather, which is its default, has no gradient: it ends in the first step",
        'set it to "alltoall"',
        lambda value: value != "alltoall",
    ),
    Conflict("fsdp_enable", UNTRIED, "set it to false, or context_parallel_size to 1"),
    Conflict("deepspeed_config", UNTRIED, "remove it, or set context_parallel_size to 1"),
    Conflict(
        "eval_steps_interval",
        "SimpleTuner makes these passes on one process alone, which would wait for the others of its group for ever",
        "remove it",
        is_positive,
    ),
    Conflict("tread_config", UNTRIED, "remove it"),
    *(Conflict(key, UNTRIED) for key in ("crepa_enabled", "layersync_enabled")),
    Conflict("musubi_blocks_to_swap", UNTRIED, "set it to 0", is_positive),
    Conflict("ramtorch", UNTRIED),
)


def is_shared(config: Mapping[str, Any]) -> bool:
    """Whether a run's configuration switches context parallelism on."""
    return is_several(config.get(KEY))


def family_problem(config: Mapping[str, Any]) -> Iterator[str]:
    """A line where the run's model family cannot be trained so."""
    family = str(config.get("model_family"))
    reason = None if family in IN_PARTS else OTHER_IN_PARTS.get(family, ENDS)
    if family == "longcat_image" and config.get("model_flavour") == "edit":
        reason = f'{ENDS} (model_flavour "edit")'
    if reason is not None:
        yield (
            f"{KEY} is {shown(config[KEY])} with model_family {shown(family)}, which cannot be combined with "
            f"twinflow_enabled: {reason}. Way out: set {KEY} to 1, or train one of: {', '.join(sorted(IN_PARTS))}."
        )
