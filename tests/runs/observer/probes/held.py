"""What a batch is trained on: a regularisation set's against the untouched network, the routes of TREAD's passes."""

import torch

from .events import around, before, note
from .frozen_base import untouched


def note_held_batches() -> None:
    """Note each micro-batch's roles and loss; of a regularisation set also its distance from the untouched network."""

    def begin_training(wrapped, trainer, args, kwargs):
        around("simpletuner.helpers.training.trainer", "Trainer._compute_model_prediction_loss", probe)
        return wrapped(*args, **kwargs)

    def probe(wrapped, trainer, args, kwargs):
        batch = args[0] if args else kwargs["prepared_batch"]
        model, rows = trainer.twinflow_model, batch["twinflow_rows"]
        held, state = bool(batch["is_regularisation_data"]), torch.get_rng_state()
        apart = None
        if held:
            plain = {key: value for key, value in batch.items() if not key.startswith("twinflow_")}
            with torch.no_grad():
                own = model.velocity(trainer.model_predict(prepared_batch=dict(batch)), batch)
                conditioning, model.time_conditioning = model.time_conditioning, None
                with untouched(trainer):
                    first = model.velocity(trainer.model.model_predict(prepared_batch=plain), plain)
                model.time_conditioning = conditioning
            target = first if trainer.config.model_type == "lora" else rows.velocity
            apart = (own - target).square().mean().item()
            torch.set_rng_state(state)
        result = wrapped(*args, **kwargs)
        note(
            kind="micro-batch", held=held, roles=[str(role) for role in rows.roles], loss=result[0].item(), apart=apart
        )
        return result

    around("simpletuner.helpers.training.trainer", "Trainer.train", begin_training)


def note_routes() -> None:
    """Note each draw of TREAD's routes, and each pass that leaves tokens out: how many rows, and which."""

    def left_out(router, args, kwargs):
        x, info = args
        kept = info.ids_keep.sort(dim=1).values.tolist()
        return {"kind": "route", "rows": len(x), "kept": kept, "with_graph": x.requires_grad}

    before("simpletuner.helpers.training.tread", "TREADRouter.get_mask", lambda *_: {"kind": "drawn"})
    before("simpletuner.helpers.training.tread", "TREADRouter.start_route", left_out)
