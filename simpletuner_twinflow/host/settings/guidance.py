"""Guidance in the host's terms: the reference that "auto" stands for, and what a run says of it."""

from typing import Any

from simpletuner_twinflow.host.settings.conflict_rows import MOVES_BASE
from simpletuner_twinflow.options import TwinFlowOptions

AUTO = {"lora": "base", "full": "base"}  # by model_type: the reference that "auto" stands for
PLACES = {"velocity": "in the velocity", "rectify": "in rectify", "both": "in the velocity and in rectify"}


def settled(options: TwinFlowOptions, model_type: str) -> TwinFlowOptions:
    """The options with "base" or "ema" for the reference of guidance. Args: model_type: the host's "lora" or "full"."""
    if options.guidance_reference != "auto":
        return options
    return options.changed(guidance_reference=AUTO[model_type])


def described(options: TwinFlowOptions, config: Any) -> str:
    """What guidance a run trains in, as a part of a line. Args: options: settled. config: the host's, parsed."""
    if options.scale == 1:
        return "none is trained in (scale 1)"
    given = f" (twinflow_enhanced_ratio {options.ratio:g})" if options.guidance_scale is None else ""
    base = "a copy of the first weights"
    if config.model_type == "lora":
        base = "adapter as it was made" if config.lora_init_type in MOVES_BASE else "adapter switched off"
    teacher = "the EMA teacher" if config.use_ema else "the student itself"
    against = teacher if options.guidance_reference == "ema" else f"the frozen base ({base})"
    low, high = options.enhanced_range
    times = "" if (low, high) == (0, 1) else f" at times {low:g} to {high:g}"
    place = PLACES[options.guidance_target]
    return f"scale {options.scale:g}{given}, against {against}, {place}{times}"
