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


def auxiliary_loss(
    model: Any, output: Mapping[str, Any], batch: Mapping[str, Any], rows: RoleBatch, loss: Tensor
) -> tuple[Tensor, dict[str, Any] | None]:
    """The loss with the host's auxiliary losses, and their logs; None where the run has none.

    Args:
        model: the host's `ModelFoundation`.
        output: of the graded pass.
        batch: the host batch of that pass.
        rows: its rows.
        loss: a scalar.
    """
    if not any(is_set(getattr(model.config, key, False)) for key in AUXILIARY):
        return loss, None
    size, real = len(rows.roles), rows.having(*REAL_ROLES)
    # Without a row of data the terms count nothing, but their modules take part: in a group of processes each must.
    weight, chosen = (1.0, real) if real else (0.0, tuple(range(size)))
    sized = {"latents": batch["latents"]}  # by which `select_rows` tells what has an entry for each row
    found = select_rows(dict(output) | sized, chosen)
    added, logs = model.auxiliary_loss(
        model_output=found, prepared_batch=select_rows(batch, chosen), loss=loss.new_zeros(())
    )
    return loss + weight * added.to(loss.dtype), logs
