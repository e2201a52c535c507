"""What a run trains, saves and exports has the same names where its blocks are compiled one by one."""

import pytest
import torch
from accelerate.utils import DynamoBackend, compile_regions
from peft.tuners.tuners_utils import BaseTunerLayer

from simpletuner_twinflow.host.checkpoints.export import _adapter, _trained
from simpletuner_twinflow.host.checkpoints.saved_run import Trained
from simpletuner_twinflow.host.checkpoints.stock_pipeline import stock_network
from simpletuner_twinflow.host.training.compiled import HELD, named_parameters, uncompiled
from simpletuner_twinflow.host.training.lycoris import trained_parameters
from simpletuner_twinflow.host.training.time_conditioning import TIME_CONDITIONING
from testbed.host_models.flow import host_model
from testbed.host_models.trainer import host_trainer

pytestmark = pytest.mark.usefixtures("in_folder")


def named(trainer):
    model = trainer.model
    found = [
        trained_parameters(model),
        named_parameters(model.model),
        trainer.twinflow_model.time_conditioning_parameters(),
    ]
    if model.config.model_type == "lora":
        found.append(_adapter(trainer, _trained(trainer), {})["transformer_lora_layers"])
    else:
        found.append(stock_network(model.model, TIME_CONDITIONING).state_dict())
    return [list(names) for names in found], Trained.of(model, trainer.optimizer)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_names_are_those_without_compilation_and_the_frozen_base_is_found_by_them(kind, folder, monkeypatch):
    model = host_model("sd3", folder, model_type=kind, twinflow_enhanced_ratio=0.5)
    monkeypatch.setattr(model.accelerator.state.dynamo_plugin, "backend", DynamoBackend.EAGER)
    trainer = host_trainer(model)
    before = named(trainer)
    model.model = compile_regions(model.model, backend="eager")
    assert any(HELD in name for name, _ in model.model.named_parameters())
    assert named(trainer) == before
    trained = trained_parameters(model)
    first = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1)
    with trainer.distiller.base.lend()():
        for name, parameter in trained_parameters(model).items():
            off = "lora_B" in name or name.startswith("twinflow_")
            assert torch.equal(parameter, torch.zeros_like(parameter) if off else first[name] + (kind == "lora")), name


def test_module_that_is_not_compiled_is_itself():
    module = torch.nn.Linear(2, 2)
    assert uncompiled(module) is module
    assert uncompiled(torch.compile(module, backend="eager")) is module


@pytest.mark.parametrize("backend", [DynamoBackend.NO, DynamoBackend.EAGER])
def test_adapter_is_switched_off_in_the_base_where_that_compiles_nothing_anew(backend, folder, monkeypatch):
    model = host_model("sd3", folder, model_type="lora", twinflow_enhanced_ratio=0.5)
    trainer = host_trainer(model)
    monkeypatch.setattr(model.accelerator.state.dynamo_plugin, "backend", backend)
    layers = [module for module in model.model.modules() if isinstance(module, BaseTunerLayer)]
    with trainer.distiller.base.lend()():
        assert {layer.disable_adapters for layer in layers} == {backend == DynamoBackend.NO}
        factors = [weight for name, weight in model.model.named_parameters() if "lora_B" in name]
        assert factors
    assert not any(layer.disable_adapters for layer in layers)
