"""The host's auxiliary losses on hidden states, by its own code and weights, on the rows that are of the data.

CREPA and U-REPA compare hidden states of the graded pass with features of the clean picture, LayerSync two layers with
each other. On a row of data each of them means what it means in plain training; a twin row has no data.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from simpletuner_twinflow.host.settings.conflict_rows import AUXILIARY, is_set
from simpletuner_twinflow.host.training.batches import select_rows
from simpletuner_twinflow.method.batch import RoleBatch
from simpletuner_twinflow.method.roles import REAL_ROLES

PROJECTORS = {"crepa_projector", "urepa_projector"}  # the network's modules that these losses train beside it


def auxiliary_loss(
    model: Any, output: Mapping[str, Any], batch: Mapping[str, Any], rows: RoleBatch, loss: Tensor
) -> tuple[Tensor, dict[str, Any] | None]:
    """The loss with the host's auxiliary losses, and their logs; None where none is set, on every rank alike.

    The host gathers a figure from all ranks wherever there are logs.

    Args:
        model: the host's `ModelFoundation`.
        output: of the graded pass.
        batch: the host batch of that pass.
        rows: its rows.
        loss: a scalar.
    """
    if not any(is_set(getattr(model.config, key, False)) for key in AUXILIARY):
        return loss, None
    real = rows.having(*REAL_ROLES)
    if not real:
        # No term and no change of the regularisers' state; but in a group of processes each takes part in all weights.
        network = model.get_trained_component(unwrap_model=True)
        trained = [
            it for name, it in network.named_parameters() if it.requires_grad and PROJECTORS & {*name.split(".")}
        ]
        return loss + 0.0 * sum(parameter.float().sum() for parameter in trained), {}
    sized = {"latents": batch["latents"]}  # by which `select_rows` tells what has an entry for each row
    found, some = select_rows(dict(output) | sized, real), select_rows(batch, real)
    added, logs = model.auxiliary_loss(model_output=found, prepared_batch=some, loss=loss.new_zeros(()))
    # The host has none where it has switched such a loss off by itself, as U-REPA of a transformer.
    return loss + added.to(loss.dtype), logs or {}
