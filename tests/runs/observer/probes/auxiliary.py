"""Asks the host's own auxiliary losses about the rows of data of each graded pass, one row at a time and all rows."""

from collections.abc import Callable
from typing import Any

import torch
import wrapt

from .events import around, note


def note_auxiliary_losses() -> None:
    """Note what each call of `Trainer._compute_model_prediction_loss` adds to TwinFlow's terms, and the host's own."""

    def begin_training(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        wrapt.wrap_function_wrapper(type(trainer), "_compute_model_prediction_loss", probe)
        return wrapped(*args, **kwargs)

    def probe(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        batch = args[0] if args else kwargs["prepared_batch"]
        begin = torch.get_rng_state()
        found = wrapped(*args, **kwargs)
        after = torch.get_rng_state()
        torch.set_rng_state(begin)

        def hosts(rows: list[int]) -> float:
            with torch.no_grad():
                output = trainer.model_predict(prepared_batch=dict(batch))
                kept = {
                    key: value[rows] for key, value in output.items() if isinstance(value, torch.Tensor) and value.ndim
                }
                kept["hidden_states_buffer"] = {
                    key: value[rows] for key, value in output["hidden_states_buffer"].items()
                }
                some = dict(batch) | {"latents": batch["latents"][rows]}
                loss, _ = trainer.model.auxiliary_loss(model_output=kept, prepared_batch=some, loss=torch.zeros(()))
            return loss.item()

        roles = [str(role) for role in batch["twinflow_rows"].roles]
        of_data = [row for row, role in enumerate(roles) if role != "twin"]
        added = (found[0] - found[2]).item()
        note(
            kind="auxiliary",
            roles=roles,
            added=added,
            of_data=hosts(of_data) if of_data else 0.0,
            of_all=hosts(list(range(len(roles)))),
        )
        torch.set_rng_state(after)
        return found

    around("simpletuner.helpers.training.trainer", "Trainer.train", begin_training)
