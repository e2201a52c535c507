import pytest
import torch
from torch import nn

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.optimizer_state import fit_optimizer_state


def trained(names, groups=1):
    """Parameters of these names with some Adam state behind them; each has a gradient of its own."""
    parameters = {
        name: nn.Parameter(torch.randn(2, generator=torch.Generator().manual_seed(ord(name)))) for name in names
    }
    per_group = [[*parameters][number::groups] for number in range(groups)]
    optimizer = torch.optim.AdamW([{"params": [parameters[name] for name in group]} for group in per_group], lr=0.1)
    return parameters, optimizer, per_group


def step(parameters, optimizer):
    for name, parameter in parameters.items():
        parameter.grad = torch.full_like(parameter, float(ord(name)))
    optimizer.step()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("saved_names", ["abcd", "abc", "ac"])
@pytest.mark.parametrize("current_names", ["abcd", "abc", "cd"])
def test_parameters_trained_before_go_on_with_their_own_state_and_others_start_anew(saved_names, current_names, groups):
    parameters, optimizer, saved = trained(saved_names, groups)
    step(parameters, optimizer)
    _, resumed, current = trained(current_names, groups)
    fitted = fit_optimizer_state(optimizer.state_dict(), saved, current)
    assert [number for group in fitted["param_groups"] for number in group["params"]] == [*range(len(current_names))]
    resumed.load_state_dict(fitted)
    for group, names, before in zip(resumed.param_groups, current, saved, strict=True):
        for parameter, name in zip(group["params"], names, strict=True):
            if name in before:
                expected = optimizer.state[parameters[name]]
                assert torch.equal(resumed.state[parameter]["exp_avg"], expected["exp_avg"])
            else:
                assert parameter not in resumed.state


def test_learning_rates_come_with_their_group():
    _, optimizer, saved = trained("abc")
    optimizer.param_groups[0]["lr"] = 0.7
    _, resumed, current = trained("abcd")
    resumed.load_state_dict(fit_optimizer_state(optimizer.state_dict(), saved, current))
    assert resumed.param_groups[0]["lr"] == 0.7


def test_state_of_other_parameters_is_refused():
    _, optimizer, _ = trained("abc")
    with pytest.raises(TwinFlowError, match="covers"):
        fit_optimizer_state(optimizer.state_dict(), [["a", "b"]], [["a", "b"]])


def test_another_number_of_groups_is_refused():
    _, optimizer, saved = trained("abc")
    with pytest.raises(TwinFlowError, match="1 parameter groups and this run's 2"):
        fit_optimizer_state(optimizer.state_dict(), saved, [["a"], ["b"]])
