"""An optimizer's saved state, for a run that trains a few parameters more or fewer than the one that saved it."""

from collections.abc import Sequence
from typing import Any

from simpletuner_twinflow.errors import TwinFlowError

Groups = Sequence[Sequence[str]]  # the names of an optimizer's parameters, group by group, in their order


def fit_optimizer_state(state_dict: dict[str, Any], saved: Groups, current: Groups) -> dict[str, Any]:
    """The state as an optimizer over the current parameters takes it; parameters are matched by name, group by group.

    A parameter that was not saved starts without state, as at the beginning of a run; the state of one that is no
    longer trained is left out.

    Args:
        state_dict: of `torch.optim.Optimizer.state_dict`, over the saved parameters.
        saved: their names.
        current: the names of the parameters that the state is for.

    Raises:
        TwinFlowError: if the state is not over the saved parameters, or the number of groups has changed.
    """
    groups = state_dict["param_groups"]
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(names) for names in saved]:
        raise TwinFlowError(
            f"The checkpoint's optimizer state covers {sizes} parameters by group, where {[*map(len, saved)]} were "
            "expected: it was made for another set of parameters."
        )
    if len(current) != len(saved):
        raise TwinFlowError(
            f"The checkpoint's optimizer has {len(saved)} parameter groups and this run's {len(current)}: start "
            "without resume_from_checkpoint, or with the settings of the run that saved it."
        )
    fitted_groups, fitted_state, following = [], {}, 0
    for group, names, wanted in zip(groups, saved, current, strict=True):
        number_of = dict(zip(names, group["params"], strict=True))
        numbers = range(following, following + len(wanted))
        following += len(wanted)
        for number, name in zip(numbers, wanted, strict=True):
            if (before := number_of.get(name)) in state_dict["state"]:
                fitted_state[number] = state_dict["state"][before]
        fitted_groups.append(group | {"params": [*numbers]})
    return state_dict | {"state": fitted_state, "param_groups": fitted_groups}
