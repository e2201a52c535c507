"""Which family model a run gets."""

from typing import Any

from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES
from simpletuner_twinflow.host.training.diffusion_model import DiffusionFamilyModel
from simpletuner_twinflow.host.training.family_model import FamilyModel


def family_model_for(model: Any) -> FamilyModel:
    """The family model of this run. Args: model: the host's `ModelFoundation`."""
    return (DiffusionFamilyModel if model.config.model_family in DIFFUSION_FAMILIES else FamilyModel)(model)
