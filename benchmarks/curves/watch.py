"""Inside a run of the host: what its averages are after some steps, and the processor time that the steps took."""

import importlib
import os
import time
from pathlib import Path
from typing import Any

import torch
import wrapt

FOLDER, EVERY = "CURVE_FOLDER", "CURVE_EVERY"  # environment variables: where to, and after how many steps each


def watch() -> None:
    """Begin; called in the run before its trainer starts."""
    folder, every = Path(os.environ[FOLDER]), int(os.environ[EVERY])
    names: dict[int, str] = {}
    made, apart, began = 0, 0.0, None  # steps, and processor seconds that go to what is done here

    def prepare(wrapped: Any, trainer: Any, args: Any, kwargs: Any) -> Any:
        nonlocal began
        if began is None:
            network = trainer.model.get_trained_component(unwrap_model=True)
            names.update({id(parameter): name for name, parameter in network.named_parameters()})
            began = time.process_time()
        return wrapped(*args, **kwargs)

    def averaged(wrapped: Any, ema: Any, args: Any, kwargs: Any) -> Any:
        nonlocal made, apart
        parameters = list(kwargs.pop("parameters", args[0] if args else ()))
        result = wrapped(parameters, *args[1:], **kwargs)
        now, made = time.process_time(), made + 1
        if made % every == 0:
            kept = {names[id(it)]: shadow.clone() for it, shadow in zip(parameters, ema.shadow_params, strict=True)}
            torch.save({"seconds": now - began - apart, "weights": kept}, folder / f"{made:05}.pt")
            apart += time.process_time() - now
        return result

    importlib.import_module("simpletuner.helpers.training.trainer")
    wrapt.wrap_function_wrapper("simpletuner.helpers.training.trainer", "Trainer.prepare_batch", prepare)
    wrapt.wrap_function_wrapper("simpletuner.helpers.training.ema", "EMAModel.step", averaged)


def watch_reference() -> None:
    """The same, of a run whose loss is the public tutorial's: every term on every row, in four passes with gradient."""
    from benchmarks.digits.recipes import tutorial_loss
    from simpletuner_twinflow.host.training import distiller, family_model
    from simpletuner_twinflow.host.training.batches import select_rows
    from simpletuner_twinflow.method.objective import Losses

    def predict_with(wrapped: Any, model: Any, args: Any, kwargs: Any) -> Any:
        [batch] = args

        def predict(x_t: Any, t: Any, r: Any, sign: Any, prompts: Any) -> Any:
            there = model.at(select_rows(batch, prompts.rows), x_t, t, r, sign)
            return model.velocity(model.model.model_predict(prepared_batch=dict(there)), there)

        return predict

    def compute_losses(rows: Any, graded: Any, options: Any, student: Any, teacher: Any, **rest: Any) -> Losses:
        options = options.changed(adversarial_enabled=True)
        loss = tutorial_loss(rows.x, rows.z, rows.t, rows.r, graded(), options, student, teacher)
        return Losses(total=loss, terms={}, forwards={}, watched={})

    wrapt.wrap_function_wrapper(family_model, "FamilyModel.predict_with", predict_with)
    distiller.compute_losses = compute_losses
    watch()
