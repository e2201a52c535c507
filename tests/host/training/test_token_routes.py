"""With TREAD the teacher's passes drop the tokens that the student's pass dropped."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from simpletuner_twinflow.host.training.token_routes import TokenRoutes
from simpletuner_twinflow.method.objective import PromptRows
from testbed.host_models.flow import host_batch, host_model
from testbed.host_models.trainer import host_trainer

ROUTES = {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 0, "end_layer_idx": 0}]}


@pytest.fixture
def trainer(folder, in_folder):
    model = host_model("sd3", folder, model_type="lora", lora_rank=2, lora_dropout=0.0, tread_config=ROUTES)
    model.config.tread_config = ROUTES
    model.tread_init()
    trainer = host_trainer(model)
    model.get_trained_component(unwrap_model=True).train()
    return trainer


@pytest.fixture
def batch(trainer):
    return trainer.twinflow_model.at_own_times(host_batch(trainer.model))


def passed(trainer, batch, predict, rows):
    chosen = list(rows)
    t = trainer.twinflow_model.sigma(batch)[chosen]
    return predict(batch["noisy_latents"][chosen], t, t, torch.ones_like(t), PromptRows(rows))


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (2,), (3, 1, 1)])
def test_each_row_repeats_its_own_route_and_without_it_the_pass_is_another(rows, trainer, batch):
    model, routes = trainer.twinflow_model, TokenRoutes(trainer.model, trainer.model.get_trained_component())
    with routes.recorded():
        with_gradient = model.velocity(trainer.model.model_predict(dict(batch)), batch)
    assert with_gradient.requires_grad
    passes = model.predict_with(batch)
    repeated = passed(trainer, batch, routes.repeated(passes), rows)
    torch.testing.assert_close(repeated, with_gradient.detach()[list(rows)], rtol=0, atol=1e-4)
    assert (passed(trainer, batch, passes, rows) - with_gradient[list(rows)]).abs().max() > 1e-3


def test_repeated_passes_leave_no_graph_the_routers_numbers_and_the_parameters_as_they_were(trainer, batch):
    network = trainer.model.get_trained_component(unwrap_model=True)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    routes = TokenRoutes(trainer.model, trainer.model.get_trained_component())
    with routes.recorded():
        loss = trainer.model.model_predict(dict(batch))["model_prediction"].square().mean()
    numbers = network._tread_router.generator.get_state()
    repeated = routes.repeated(trainer.twinflow_model.predict_with(batch))
    found = [passed(trainer, batch, repeated, (0, 1)) for _ in range(2)]
    assert torch.equal(*found)
    assert not found[0].requires_grad
    assert torch.equal(network._tread_router.generator.get_state(), numbers)
    assert "get_mask" not in vars(network._tread_router)
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == trained
    loss.backward()  # through the recorded pass, after the repeated ones
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_without_tread_nothing_is_changed(folder, in_folder):
    trainer = host_trainer(host_model("sd3", folder, model_type="lora", lora_rank=2))
    routes = TokenRoutes(trainer.model, trainer.model.get_trained_component())
    with routes.recorded():
        pass
    assert routes.repeated(passed) is passed


def test_step_makes_the_pass_with_gradient_first_whose_routes_the_teacher_takes(trainer, monkeypatch):
    with_gradient, predict = [], trainer.model.model_predict

    def model_predict(prepared_batch, *args, **kwargs):
        with_gradient.append(any(it.requires_grad for it in trainer.model.model.parameters()))
        return predict(prepared_batch, *args, **kwargs)

    monkeypatch.setattr(trainer.model, "model_predict", model_predict)
    batch = trainer.distiller.prepare_batch(host_batch(trainer.model), trainer.model, {"global_step": 0})
    assert trainer.distiller.training_loss(batch)[0].isfinite()
    assert len(with_gradient) > 1
    assert with_gradient[0]


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_ddp_that_looks_for_unused_parameters_takes_the_routed_passes_for_no_pass_of_its_own(trainer):
    model = trainer.model
    model.model = DistributedDataParallel(model.model, find_unused_parameters=True)
    for step in range(2):
        batch = trainer.distiller.prepare_batch(host_batch(model), model, {"global_step": step})
        trainer.distiller.training_loss(batch)[0].backward()
    assert any(it.grad is not None and it.grad.abs().sum() > 0 for it in model.model.parameters())
