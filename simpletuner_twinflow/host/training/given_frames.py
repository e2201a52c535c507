"""Frames, or parts of them, that LTX-Video 2 is given without noise: a first frame, a prefix, a suffix, a crop, a mask.

The host draws anew at each pass which samples are given what, and leaves the given tokens out of its loss. TwinFlow
compares passes, so it is drawn once a batch, and all passes on a row, of student and teacher and at whatever time, are
given the same tokens of the data, at time 0. What the network predicts there is no part of any term.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.host.run import argument, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses
from simpletuner_twinflow.method.teacher import RngState, replay_rng

GIVEN = "twinflow_given"  # batch key: "tokens" of the data and their "mask", "weights" of the squared errors
MODULE = "simpletuner.helpers.models.ltxvideo2"


@uses(
    Seam("LTXVideo2.model_predict", ("prepared_batch",)),
    Seam("LTXVideo2._ltx2_intrinsic_condition_specs", ("self",), Touch.in_block),
    Seam(
        "LTXVideo2._apply_ltx2_intrinsic_conditioning",
        ("packed_noisy", "packed_clean", "target_timesteps", "prepared_batch", "num_frames", "height", "width"),
        Touch.in_block,
    ),
    Seam("LTXVideo2._ltx2_transformer_module", ("self",), Touch.read),
    Seam("pack_ltx2_latents", ("latents", "patch_size", "patch_size_t"), Touch.read, MODULE),
    Seam("unpack_ltx2_latents", ("latents", "num_frames", "patch_size", "patch_size_t"), Touch.read, MODULE),
)
def give_frames(module: ModuleType) -> None:
    """Give LTX-Video 2 the frames that were drawn for the batch in each of its passes, and none in any other pass."""

    def predict(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        given = argument(args, kwargs, "prepared_batch").get(GIVEN)
        if given is None:  # evaluation and samples drawn in memory, which are of prompts alone
            with changed(model, _ltx2_intrinsic_condition_specs=list):
                return wrapped(*args, **kwargs)
        mask = given["mask"]

        def give(*, packed_noisy: Tensor, target_timesteps: Tensor, **others: Any) -> tuple[Tensor, Tensor, Tensor]:
            tokens = given["tokens"].to(packed_noisy.dtype)
            clean = target_timesteps.new_zeros(())
            return (
                torch.where(mask.unsqueeze(-1), tokens, packed_noisy),
                torch.where(mask, clean, target_timesteps),
                ~mask,
            )

        with changed(model, _apply_ltx2_intrinsic_conditioning=give):
            output = wrapped(*args, **kwargs)
        predicted = output["model_prediction"]
        nothing = predicted.new_zeros(())
        return output | {"model_prediction": torch.where(given["weights"] > 0, predicted, nothing)}

    wrap_active(module, "LTXVideo2.model_predict", predict)


def with_given_frames(model: Any, batch: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A copy of a prepared host batch with what each of its samples is given, where the run's config has any.

    Args: model: the host's, of a family with `gives_frames`; batch: with the data as "latents", (B, C, F, H, W);
    seed: of the random numbers by which that is drawn; the global stream is left alone.
    """
    from simpletuner.helpers.models.ltxvideo2 import pack_ltx2_latents, unpack_ltx2_latents

    if not (specs := model._ltx2_intrinsic_condition_specs()):
        return dict(batch)
    latents, config = batch["latents"], model._ltx2_transformer_module().config
    patch = {"patch_size": config.patch_size, "patch_size_t": config.patch_size_t}
    size = dict(zip(("num_frames", "height", "width"), latents.shape[2:], strict=True))
    tokens = pack_ltx2_latents(latents, **patch)
    with replay_rng(RngState.capture(latents.device)):
        torch.manual_seed(seed)
        counted = model._apply_ltx2_intrinsic_conditioning(
            packed_noisy=tokens,
            packed_clean=tokens,
            target_timesteps=tokens[..., 0],
            prepared_batch=batch,
            specs=specs,
            **size,
            **patch,
        )[2]
    # As in the host's loss, a sample's mean is that of what is not given.
    share = counted.float().mean(dim=1, keepdim=True).clamp(min=1e-8)
    weights = (counted / share).unsqueeze(-1).expand_as(tokens)
    given = {"tokens": tokens, "mask": ~counted, "weights": unpack_ltx2_latents(weights, **size, **patch)}
    return dict(batch) | {GIVEN: given}
