"""Rows of a regularisation set, on which the network is held at its parent and none of TwinFlow's terms is trained."""

from collections.abc import Callable

from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import Predict, PromptRows, RoleBatch, call
from simpletuner_twinflow.method.objective import DISTANCES, Losses, Term
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import ObjectiveSettings


def regularisation_losses(
    rows: RoleBatch,
    graded: Callable[[], Tensor],
    options: ObjectiveSettings,
    parent: Predict | None,
    *,
    weights: Tensor | None = None,
) -> Losses:
    """The distance of the student's velocity from its parent's, at r = t and without guidance.

    Args:
        rows: of `prepare_role_batch`, all of them near.
        graded: makes the student's F(rows.x_t, rows.t, rows.r, rows.sign), with its graph, (B, ...); asked after the
            parent's pass.
        options: of the run.
        parent: the network before training, called without gradient; None for the data's own velocity.
        weights: as of `compute_losses`.

    Raises:
        TwinFlowError: if a row is not near.
    """
    if set(rows.roles) != {Role.near}:
        raise TwinFlowError(f"A regularisation set's rows are near, and these are {', '.join(sorted({*rows.roles}))}.")
    target = rows.velocity
    if parent is not None:
        target = call(parent, rows.x_t, rows.t, rows.r, rows.sign, PromptRows(tuple(range(len(rows.roles)))))
    loss = DISTANCES[options.loss](graded(), target, weights)
    forwards = {"student": len(rows.roles), "regularisation": 0 if parent is None else len(rows.roles)}
    term = Term(total=loss.detach().sum(), rows=len(rows.roles))
    return Losses(total=loss.mean(), terms={"regularisation": term}, forwards=forwards, watched={})
