"""Code of the model card that loads a base model with SimpleTuner's classes, where diffusers has none for it."""

from typing import Any, NamedTuple

from simpletuner_twinflow.host.run import options_of

NEEDS_HOST = "This needs SimpleTuner, whose classes read the model; diffusers has none for it."


class Reader(NamedTuple):
    """How a pipeline is loaded."""

    imports: tuple[str, ...]
    loading: tuple[str, ...]  # the last line makes `pipeline`
    note: str


def host_reader(model: Any, base: str, dtype: str) -> Reader | None:
    """The lines of code; None for a family that is read otherwise.

    Args:
        model: the host's.
        base: folder or repository of the base model, or of the run's full model.
        dtype: of its weights, by torch's name.
    """
    return _i1(model, base, dtype) if model.config.model_family == "zlab_i1" else None


def _i1(model: Any, base: str, dtype: str) -> Reader:
    package, dtype = "simpletuner.helpers.models.zlab_i1", f"torch_dtype=torch.{dtype}"
    vae, steps = model.config.pretrained_vae_model_name_or_path, options_of(model.config).target_step_count
    several = f" Its {steps} even steps are those that were trained." if steps > 1 else ""
    return Reader(
        (
            "from diffusers import AutoencoderKL",
            f"from {package}.pipeline import ZlabI1Pipeline",
            f"from {package}.transformer import ZlabI1Transformer2DModel",
        ),
        (
            f"network = ZlabI1Transformer2DModel.from_pretrained({base!r}, subfolder='transformer', {dtype})",
            f"vae = AutoencoderKL.from_pretrained({vae!r}, subfolder='vae', {dtype})",
            f"pipeline = ZlabI1Pipeline.from_pretrained({base!r}, transformer=network, vae=vae, {dtype})",
        ),
        f"{NEEDS_HOST} Its pipeline makes the steps itself.{several}",
    )
