"""The frozen adapters that the host trains some flavours with and draws without."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Assisted(NamedTuple):
    """Flavours of a family that the host trains with a frozen adapter on, and draws with the adapter off."""

    default_flavour: str  # of the family
    paths: Mapping[str, str | None]  # flavour -> the adapter it has by default


_Z_IMAGE = "ostris/zimage_turbo_training_adapter"
ASSISTED = {
    "boogu_image": Assisted("v0.1-turbo", {"v0.1-turbo": None, "v0.1-turbo-fp8": None}),
    "ernie": Assisted("base", {"turbo": None}),
    "flux": Assisted("krea", {"schnell": "ostris/FLUX.1-schnell-training-adapter"}),
    "flux3_image": Assisted("klein-base", {"klein": "SimpleTuner/flux-3-klein-image-training-assistant"}),
    "qwen_image": Assisted("v2.1", {"v2.0": None, "v2.1": "SimpleTuner/Qwen-Image-2.1-training-assistant-v3"}),
    "z_image": Assisted("turbo-ostris-v2", {"turbo": _Z_IMAGE, "turbo-ostris-v2": _Z_IMAGE}),
}
# Measured in docs/families.md.
ASSISTANT = (
    "assistant_lora_path is {path!r} (the host's default for some flavours): a frozen adapter that is on in training "
    "and off in drawing, so that the few-step model would be learnt on one network and drawn with another. "
    "Set disable_assistant_lora to true, which trains the network that is drawn with, or use another model_flavour."
)


def assistant_of(config: Mapping[str, Any]) -> str | None:
    """The frozen adapter that the host would train this run with, if any."""
    assisted = ASSISTED.get(str(config.get("model_family")))
    disabled = str(config.get("disable_assistant_lora")).lower() in ("true", "1", "yes", "on")  # as given or parsed
    if assisted is None or config.get("model_type") != "lora" or disabled:
        return None
    flavour = str(config.get("model_flavour") or "")
    if not flavour and not config.get("pretrained_model_name_or_path"):
        flavour = assisted.default_flavour
    if flavour not in assisted.paths:
        return None
    return config.get("assistant_lora_path") or assisted.paths[flavour]
