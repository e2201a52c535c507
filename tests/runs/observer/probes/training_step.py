"""Asks the real trainer's training step again, from the same random numbers, and notes what is the same."""

import torch
import wrapt
from peft.tuners.tuners_utils import BaseTunerLayer

from simpletuner_twinflow.method.objective import PromptRows

from .events import around, note
from .frozen_base import base_is_untouched


def adapted(network):
    """The layers whose adapter is switched on."""
    layers = (module for module in network.modules() if isinstance(module, BaseTunerLayer))
    return sum(not layer.disable_adapters for layer in layers)


def how_far_apart(trainer, batch, rng_state):
    """The largest difference that the time's sign and the target time make to the network's velocity on this batch."""
    x_t = batch["twinflow_rows"].x_t
    predict, count = trainer.twinflow_model.predict_with(batch), len(x_t)

    def velocity(t, r, sign):
        torch.set_rng_state(rng_state)
        times = (torch.full((count,), value) for value in (t, r, sign))
        return predict(x_t, *times, PromptRows(tuple(range(count))))

    ordinary = velocity(0.7, 0.7, 1.0)
    return {
        "sign": (velocity(0.7, 0.7, -1.0) - ordinary).abs().max().item(),
        "target_time": (velocity(0.7, 0.3, 1.0) - ordinary).abs().max().item(),
        "repeated": (velocity(0.7, 0.7, 1.0) - ordinary).abs().max().item(),
    }


def note_each_step():
    """Note what each call of `Trainer._compute_model_prediction_loss` does and leaves behind."""

    def begin_training(wrapped, trainer, args, kwargs):
        wrapt.wrap_function_wrapper(type(trainer), "_compute_model_prediction_loss", probe)
        return wrapped(*args, **kwargs)

    def probe(wrapped, trainer, args, kwargs):
        batch = args[0] if args else kwargs["prepared_batch"]
        network = trainer.model.get_trained_component(unwrap_model=True)
        # A quantised base's weights are not to be added up, and nobody touches them.
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        weights = [parameter.detach().clone() for parameter in trained]
        keys = set(batch)
        base_untouched = base_is_untouched(trainer, batch)
        begin = torch.get_rng_state()

        calls = []
        original = trainer.model.model_predict

        def recording(prepared_batch, **options):
            calls.append(
                {
                    "rows": prepared_batch["noisy_latents"].shape[0],
                    "with_grad": torch.is_grad_enabled(),
                    "stream": torch.get_rng_state().sum().item(),
                    "prompt": prepared_batch["encoder_hidden_states"].float().sum(dim=(1, 2)).tolist(),
                    "pooled": prepared_batch["add_text_embeds"].float().sum(dim=1).tolist(),
                    "timesteps": prepared_batch["timesteps"].tolist(),
                    "target_time": prepared_batch["twinflow_target_time"].tolist(),
                    "sign": prepared_batch["twinflow_sign"].tolist(),
                    "weights": [sum(parameter.double().sum().item() for parameter in trained), adapted(network)],
                }
            )
            return original(prepared_batch=prepared_batch, **options)

        trainer.model.model_predict = recording
        result = wrapped(*args, **kwargs)
        trainer.model.model_predict = original
        calls.sort(key=lambda call: not call["with_grad"])
        after_step = torch.get_rng_state()

        distiller, options_of_run = trainer.distiller, trainer.distiller.options
        by_scale = []  # the losses with guidance and without, at a clamp that no target of this network reaches
        for changes in ({}, {"guidance_scale": 1.0}):
            distiller.options = options_of_run.changed(target_clamp=100.0, **changes)
            torch.set_rng_state(begin)
            by_scale.append(wrapped(*args, **kwargs)[0].item())
        distiller.options = options_of_run
        # Last of all, so that the terms that the host logs are the step's own.
        torch.set_rng_state(begin)
        again = wrapped(*args, **kwargs)
        torch.set_rng_state(begin)
        with torch.no_grad():
            trainer.model_predict(prepared_batch=dict(batch))
        after_student_alone = torch.get_rng_state()
        apart = how_far_apart(trainer, batch, begin)
        torch.set_rng_state(after_step)

        note(
            kind="step",
            shape=list(batch["latents"].shape),
            roles=[str(role) for role in batch["twinflow_rows"].roles],
            stream_moved=not torch.equal(begin, after_step),
            stream_is_the_students=torch.equal(after_step, after_student_alone),
            loss_is_repeatable=torch.equal(result[0], again[0]),
            weights_are_back=all(map(torch.equal, weights, (parameter.detach() for parameter in trained))),
            batch_is_untouched=set(batch) == keys,
            loss_dtype=str(result[0].dtype),
            base_untouched=base_untouched,
            apart=apart,
            loss=result[0].item(),
            loss_by_guidance=by_scale,
            calls=calls,
        )
        return result

    # Only when training begins: by then the plugin has wrapped the step, and this must be outside of that.
    around("simpletuner.helpers.training.trainer", "Trainer.train", begin_training)
