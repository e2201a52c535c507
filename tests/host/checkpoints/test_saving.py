"""An adapter's time conditioning in a file of its own."""

import pytest
import torch
from torch import nn

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.checkpoints.files import TIME_CONDITIONING_FILE, read_tensors
from simpletuner_twinflow.host.checkpoints.saving import (
    load_time_conditioning,
    read_time_conditioning,
    save_time_conditioning,
)


def parameters(trainer):
    return trainer.twinflow_model.time_conditioning_parameters()


def test_conditioning_and_its_averages_come_back_from_their_file(trained, make_trainer, tmp_path):
    save_time_conditioning(trained.twinflow_model, trained.ema_model, tmp_path)
    weights, averages = read_time_conditioning(tmp_path)
    assert averages.keys() == parameters(trained).keys()
    assert any(not torch.equal(averages[name], weights[name]) for name in averages)
    other = make_trainer()
    load_time_conditioning(other.twinflow_model, weights, tmp_path)
    for name, parameter in parameters(trained).items():
        assert torch.equal(parameters(other)[name], parameter)


def test_lost_or_damaged_file_is_an_error_that_names_it(trainer, tmp_path):
    file = tmp_path / TIME_CONDITIONING_FILE
    with pytest.raises(TwinFlowError, match=r"time_conditioning\.pt is missing"):
        read_time_conditioning(tmp_path)
    save_time_conditioning(trainer.twinflow_model, None, tmp_path)
    assert read_time_conditioning(tmp_path)[1] == {}
    torch.save({"weights": {}}, file)
    with pytest.raises(TwinFlowError, match="has no 'averages'"):
        read_time_conditioning(tmp_path)
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(TwinFlowError, match=r"is damaged .*set it anew"):
        read_tensors(file, "set it anew")


def test_conditioning_of_another_network_is_an_error(trainer, tmp_path):
    weights = nn.Linear(2, 2).state_dict(prefix="twinflow_negative_time.")
    with pytest.raises(TwinFlowError, match=r"time_conditioning\.pt is of another network"):
        load_time_conditioning(trainer.twinflow_model, weights, tmp_path)
