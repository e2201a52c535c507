"""A training step through the family model, as the distiller does it."""

from typing import Any

import torch

from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.time_conditioning import SIGN, TARGET_TIME
from simpletuner_twinflow.method.objective import Losses, ObjectiveSettings, compute_losses, prepare_role_batch
from tests.method.training_step import ANY, NEAR, ONE, TWIN

ROLES = (ANY, TWIN, ONE, NEAR, NEAR, ONE, TWIN, ANY)


def losses_of(
    family_model: FamilyModel,
    batch: dict,
    options: ObjectiveSettings,
    seed: int = 1,
    weights: torch.Tensor | None = None,
) -> Losses:
    """Every term on a batch of eight rows, two of each role. Args: weights: as of `compute_losses`."""
    generator = torch.Generator().manual_seed(seed)
    passes = family_model.predict_with(batch)
    x, z, t = batch["latents"].float(), batch["noise"].float(), family_model.sigma(batch)
    rows = prepare_role_batch(x, z, t, ROLES, options, passes, generator, step_times=(0.999, 0.6))
    prepared = family_model.at(batch, rows.x_t, rows.t, rows.r, rows.sign)
    prediction = family_model.velocity(family_model.model.model_predict(prepared_batch=dict(prepared)), prepared)
    return compute_losses(rows, lambda: prediction, options, passes, passes, generator, weights=weights)


def velocity(
    family_model: FamilyModel,
    batch: dict,
    t: Any,
    r: Any,
    sign: Any = 1.0,
    x_t: torch.Tensor | None = None,
    *,
    modules: bool = True,
) -> torch.Tensor:
    """The velocity at these times, with gradient.

    Args: x_t: where; None for the batch's noisy latents; modules: whether those of the time conditioning are asked.
    """
    rows = batch["latents"].shape[0]
    t, r, sign = (torch.full((rows,), float(value)) for value in (t, r, sign))
    there = family_model.at(batch, batch["noisy_latents"] if x_t is None else x_t, t, r, sign)
    given = there if modules else {key: value for key, value in there.items() if key not in (TARGET_TIME, SIGN)}
    return family_model.velocity(family_model.model.model_predict(prepared_batch=dict(given)), there)
