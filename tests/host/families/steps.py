"""A training step through the adapter, as the distiller does it."""

from typing import Any

import torch

from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.method.objective import Losses, ObjectiveSettings, compute_losses, prepare_role_batch
from tests.method.training_step import ANY, NEAR, ONE, TWIN

ROLES = (ANY, TWIN, ONE, NEAR, NEAR, ONE, TWIN, ANY)


def losses_of(adapter: FamilyModel, batch: dict, options: ObjectiveSettings, seed: int = 1) -> Losses:
    """Every term on a batch of eight rows, two of each role."""
    generator = torch.Generator().manual_seed(seed)
    passes = adapter.predict_with(batch)
    x, z, t = batch["latents"].float(), batch["noise"].float(), adapter.sigma(batch)
    rows = prepare_role_batch(x, z, t, ROLES, options, passes, generator, step_times=(0.999, 0.6))
    prepared = adapter.at(batch, rows.x_t, rows.t, rows.r, rows.sign)
    prediction = adapter.velocity(adapter.model.model_predict(prepared_batch=dict(prepared)), prepared)
    return compute_losses(rows, prediction, options, passes, passes, generator)


def velocity(adapter: FamilyModel, batch: dict, t: Any, r: Any, sign: Any = 1.0) -> torch.Tensor:
    """The velocity at the batch's noisy latents for these times, with gradient."""
    rows = batch["latents"].shape[0]
    t, r, sign = (torch.full((rows,), float(value)) for value in (t, r, sign))
    there = adapter.at(batch, batch["noisy_latents"], t, r, sign)
    return adapter.velocity(adapter.model.model_predict(prepared_batch=dict(there)), there)
