"""What is known of the host's model families: one row a family that TwinFlow has been proven on."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """What the plugin needs to know of a family that the host's own classes do not say."""

    time_embedding: str  # submodule of the network whose output embeds the time: (B, dim)


FAMILIES = {
    "sd3": Family(time_embedding="time_text_embed.timestep_embedder"),
}


def is_flow_matching(config: Mapping[str, Any]) -> bool:
    """Whether the run's model predicts a flow velocity, by the host's own classes."""
    from simpletuner.helpers.models.registry import ModelRegistry

    family = ModelRegistry.model_families().get(config.get("model_family"))
    if family is None:
        return True  # the host refuses an unknown family itself
    overridden = config.get("prediction_type") in ("epsilon", "v_prediction", "sample")
    return family.PREDICTION_TYPE.is_flow_prediction and not overridden


def unsupported_reason(config: Mapping[str, Any], *, flow: bool) -> str | None:
    """Why this run's model cannot be trained yet; None when it can."""
    family = config.get("model_family")
    known = ", ".join(sorted(FAMILIES))
    unproven = "which TwinFlow has not been proven on yet"
    way_out = f'Use one of: {known}; or SimpleTuner\'s own TwinFlow with twinflow_implementation: "host".'
    if not flow:
        return f"model_family is {family!r} with the diff2flow bridge, {unproven}. {way_out}"
    if family not in FAMILIES:
        return f"model_family is {family!r}, {unproven}. {way_out}"
    return None
