"""The frozen base in the host's trainer: the pass of the network as it was before training, whatever is trained."""

import logging

import pytest
import torch

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.training.distiller import _lent
from simpletuner_twinflow.method.objective import PromptRows
from simpletuner_twinflow.method.teacher import RngState
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_batch, host_model
from testbed.host_models.trainer import host_trainer, save_hooks, training_step

EVERYONE = PromptRows((0, 1, 2, 3))
FULL = {"model_type": "full", "mixed_precision": "no"}
MOVED = [{"lora_init_type": "pissa"}, {"lora_init_type": "olora"}]


@pytest.fixture
def make(folder, in_folder):
    """Makes trainers of tiny SD3 models; takes changes to the config, and modules to be trained whole."""

    def make(whole=None, **changes):
        lora = {"model_type": "lora", "lora_rank": 2, "lora_dropout": 0.0, "train_batch_size": 4}
        model = host_model("sd3", folder, **lora | changes)
        model.get_lora_save_layers = lambda: whole
        return host_trainer(model)

    return make


def passes(predict, x_t):
    """Velocities at r = t, at r = 0 and on negative time."""
    at = ((0.7, 0.7, 1.0), (0.7, 0.0, 1.0), (0.7, 0.7, -1.0))
    return [predict(x_t, *(torch.full((len(x_t),), value) for value in values), EVERYONE) for values in at]


def by_base(trainer, batch):
    """As the distiller passes the base to the objective."""
    lent = _lent(trainer.twinflow_model.predict_with(batch), RngState.capture("cpu"), trainer.distiller.base.lend)
    return passes(lent, batch["noisy_latents"])


def by_untouched(folder, batch, dtype=None):
    """Of the network as it stands in its files, rounded to a dtype; no time conditioning is trained."""
    model = host_model("sd3", folder)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.copy_(weight.to(dtype or weight.dtype))
    return passes(family_model_of(model).predict_with(batch), batch["noisy_latents"])


def by_itself(trainer, batch):
    return passes(trainer.twinflow_model.predict_with(batch), batch["noisy_latents"])


def train(trainer, batch):
    for step in range(3):
        training_step(trainer, batch, step)


def same(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    "changes", [{}, {"whole": ["norm_out"]}, FULL], ids=["lora", "a module trained whole beside it", "full"]
)
def test_base_is_the_untouched_network_to_the_bit_before_and_after_training(changes, make, folder):
    trainer = make(**changes)
    batch = host_batch(trainer.model)
    untouched = by_untouched(folder, batch)
    assert same(by_base(trainer, batch), untouched)
    train(trainer, batch)
    assert not any(map(torch.equal, by_itself(trainer, batch), untouched))
    assert same(by_base(trainer, batch), untouched)


@pytest.mark.parametrize("changes", MOVED, ids=["pissa", "olora"])
def test_adapter_that_changed_the_bases_weights_is_lent_as_it_was_made(changes, make, folder):
    # Rounded, it would not cancel what it has taken from the base's weights.
    trainer = make(**changes, twinflow_guidance_base_dtype="bfloat16")
    batch = host_batch(trainer.model)
    first = by_base(trainer, batch)
    torch.testing.assert_close(first, by_untouched(folder, batch), rtol=1e-4, atol=1e-4)
    train(trainer, batch)
    assert not any(map(torch.equal, by_itself(trainer, batch), first))
    assert same(by_base(trainer, batch), first)


def test_base_of_a_run_that_starts_from_an_adapter_is_without_it(make, folder, save):
    first = make()
    batch = host_batch(first.model)
    train(first, batch)
    trainer = make(init_lora=str(save(first) / "pytorch_lora_weights.safetensors"))
    untouched = by_untouched(folder, batch)
    assert not any(map(torch.equal, by_itself(trainer, batch), untouched))
    assert same(by_base(trainer, batch), untouched)


@pytest.mark.parametrize("changes", [{}, MOVED[0]], ids=["lora", "pissa"])
def test_resumed_run_has_the_same_base_to_the_bit(changes, make, save):
    trainer = make(**changes)
    batch = host_batch(trainer.model)
    base = by_base(trainer, batch)
    train(trainer, batch)
    resumed = make(**changes)
    save_hooks(resumed).load_model_hook([resumed.model.get_trained_component()], str(save(trainer)))
    assert same(by_itself(resumed, batch), by_itself(trainer, batch))
    assert same(by_base(resumed, batch), base)


@pytest.mark.parametrize("device", ["accelerator", "cpu"])
def test_copy_in_bf16_is_the_network_rounded_to_bf16(device, make, folder):
    trainer = make(**FULL, twinflow_guidance_base_dtype="bfloat16", twinflow_guidance_base_device=device)
    batch = host_batch(trainer.model)
    train(trainer, batch)
    assert {value.dtype for value in trainer.distiller.base._kept.values()} == {torch.bfloat16}
    assert same(by_base(trainer, batch), by_untouched(folder, batch, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, False),
        (MOVED[0], True),
        ({"whole": ["norm_out"]}, True),
        (FULL, True),
        (FULL | {"twinflow_guidance_scale": 1.0}, None),
        (FULL | {"twinflow_guidance_reference": "ema"}, None),
    ],
    ids=["lora", "pissa", "whole module", "full", "no guidance", "ema"],
)
def test_first_values_are_kept_only_where_they_are_needed_and_not_known(changes, kept, make):
    base = make(**changes).distiller.base
    assert (base and bool(base._kept)) == kept
    assert base is None or not [name for name in base._kept if name.startswith("twinflow_")]


def test_memory_of_the_copy_is_said_once(make, caplog):
    with caplog.at_level(logging.INFO):
        trainer = make(**FULL)
    said = [record.getMessage() for record in caplog.records if "first values" in record.getMessage()]
    ours = sum(weight.numel() for weight in trainer.twinflow_model.time_conditioning_parameters().values())
    count = sum(weight.numel() for weight in trainer._get_trainable_parameters()) - ours
    size = f"{4 * count / 1e9:.2f} GB of float32 on cpu"
    assert said == [f"TwinFlow keeps the first values of {count:,} parameters for guidance: {size}."]


def test_copy_that_has_to_be_moved_for_each_batch_is_warned_of(make, caplog):
    make(**FULL).distiller.base._log_cost(torch.device("cuda"))
    assert "to the accelerator for every batch" in caplog.text


def test_parameter_that_is_trained_only_later_is_refused(make):
    trainer = make()
    trainer.model.model.proj_out.weight.requires_grad_(True)
    with pytest.raises(TwinFlowError, match=r"proj_out.weight is trained, but was not"):
        trainer.distiller.base.lend()


@pytest.mark.parametrize("changes", [{}, FULL], ids=["lora", "full"])
def test_recomputed_activations_are_the_students_though_the_base_came_between(changes, make):
    """Gradient checkpointing passes the network once more in the backward pass."""
    trainer = make(**changes)
    batch = host_batch(trainer.model)
    train(trainer, batch)
    prepared = trainer.distiller.prepare_batch(batch, trainer.model, {"global_step": 3})
    gradients = []
    for recompute in (lambda: None, trainer.model.model.enable_gradient_checkpointing):
        recompute()
        loss = trainer.distiller.training_loss(prepared)[0]
        gradients.append(torch.autograd.grad(loss, trainer._get_trainable_parameters(), materialize_grads=True))
    assert same(*gradients)
    assert any(gradient.any() for gradient in gradients[0])


def test_loss_is_guided_by_the_base(make):
    """At the first step EMA and base are one network, and w - 1 = 0.5 = rho; after training they are two.

    With barron's loss, since of the squared error the base guides some rows alone, at as many times the weight.
    """
    by_reference = {"base": {"twinflow_guidance_scale": 1.5}, "ema": {"twinflow_enhanced_ratio": 0.5}}
    shares = {"twinflow_role_shares": {"near": 1, "twin": 1}, "twinflow_loss": "barron"}
    trainers = [make(twinflow_guidance_reference=name, **shares, **scale) for name, scale in by_reference.items()]
    batch = host_batch(trainers[0].model)
    losses = [[training_step(trainer, batch, step) for trainer in trainers] for step in range(3)]
    assert torch.equal(*losses[0])
    assert not torch.equal(*losses[2])
