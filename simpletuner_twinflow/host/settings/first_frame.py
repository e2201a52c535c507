"""What a flavour cannot be trained with whose network is given a film's first frame without noise."""

from collections.abc import Iterator, Mapping
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import Conflict, as_number, is_set
from simpletuner_twinflow.host.settings.family import Family
from simpletuner_twinflow.options import TwinFlowOptions

DATASET_CONFLICTS = (
    Conflict(
        "dataset_type",
        "the network is given the first frame without noise, and of a picture there is no other to train",
        'use datasets of "video"',
        lambda value: value in (None, "image"),
    ),
)


def has_first_frame(family: Family | None, flavour: Any) -> bool:
    """Whether this flavour's network is given a first frame in each pass."""
    return family is not None and flavour in family.first_frame_flavours


def first_frame_problems(config: Mapping[str, Any], options: TwinFlowOptions) -> Iterator[str]:
    """A line on each problem of a run with such a flavour, beside those of its datasets. Args: as of `conflicts`."""
    flavour = shown(config["model_flavour"])
    if options.target_step_count > 1 and options.time_conditioning != "training_only":
        yield (
            f"twinflow_target_step_count is {options.target_step_count} and twinflow_time_conditioning "
            f"{shown(options.time_conditioning)} with model_flavour {flavour}: such a model is noised anew between its "
            "steps, and so would be the first frame, which it knows without noise alone. Way out: set "
            'twinflow_time_conditioning to "training_only", or twinflow_target_step_count to 1.'
        )
    frames = as_number(config.get("validation_num_video_frames")) or 1
    if frames <= 1 and not is_set(config.get("validation_disable")):
        yield (
            f"validation_num_video_frames is {shown(config.get('validation_num_video_frames'))} with model_flavour "
            f"{flavour}: validation would draw a picture, which such a model does not learn. Way out: set it to the "
            "frames of the datasets' videos, or validation_disable to true."
        )
