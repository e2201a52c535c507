"""How the model card's code loads and calls the pipelines of families that are not read as others are."""

from typing import Any, NamedTuple

from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE
from simpletuner_twinflow.host.run import options_of
from simpletuner_twinflow.host.training.anima import BY_SCHEDULER
from simpletuner_twinflow.sampling.stock import mean_of_spacing, stock_scheduler, stock_settings

NEEDS_HOST = "This needs SimpleTuner, whose classes read the model; diffusers has none for it."


class Reader(NamedTuple):
    """How a pipeline is loaded and called."""

    imports: tuple[str, ...]
    loading: tuple[str, ...]  # lines that make `pipeline`
    note: str | None = None  # in place of the usual one
    adapter: tuple[str, ...] = ()  # lines that load the run's adapter, in place of the usual one
    arguments: tuple[str, ...] = ()  # more of the call


def reader_of(model: Any, base: str, dtype: str, adapter: str, pixels: int) -> Reader | None:
    """The lines of code; None for a family that is read as most are.

    Args:
        model: the host's.
        base: folder or repository of the base model, or of the run's full model.
        dtype: of its weights, by torch's name.
        adapter: folder or repository of the run's adapter.
        pixels: of the picture.
    """
    if model.config.model_family == "zlab_i1":
        return _i1(model, base, dtype)
    if model.config.model_family == "flux3_image":
        return _flux3(model, base, dtype)
    if model.config.model_family == "ideogram":
        return _ideogram(model, base, dtype, adapter, pixels)
    if model.config.model_family == "anima" and model._uses_diffusers_repo_layout():
        return _anima(model, base, dtype, adapter)
    return None


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


def _flux3(model: Any, base: str, dtype: str) -> Reader:
    settings = stock_settings(model.twinflow_model.stock_scheduler(options_of(model.config).target_step_count))
    return Reader(
        (
            "from diffusers import FlowMatchEulerDiscreteScheduler",
            "from simpletuner.helpers.models.flux3_image.pipeline import Flux3ImagePipeline",
        ),
        (
            f"pipeline = Flux3ImagePipeline.from_pretrained({base!r}, torch_dtype=torch.{dtype})",
            f"pipeline.scheduler = FlowMatchEulerDiscreteScheduler({settings})",
        ),
        NEEDS_HOST,
    )


def _ideogram(model: Any, base: str, dtype: str, adapter: str, pixels: int) -> Reader:
    """Stock diffusers, which knows SimpleTuner's names of layers by another prefix."""
    imports, file = _adapter_file(model, adapter)
    steps = options_of(model.config).target_step_count
    return Reader(
        (
            "from diffusers import DiffusionPipeline",
            *imports,
        ),
        (f"pipeline = DiffusionPipeline.from_pretrained({base!r}, dtype=torch.{dtype})",),
        adapter=(
            f"weights = load_file({file})",
            "pipeline.load_lora_weights(",
            '    {name.replace("transformer.", "diffusion_model.", 1): weight for name, weight in weights.items()}',
            ")",
        ),
        arguments=("guidance_schedule=None", f"mu={round(mean_of_spacing(steps, pixels), 6)!r}"),
    )


def _adapter_file(model: Any, adapter: str) -> tuple[tuple[str, ...], str]:
    """Imports, and code for the adapter's file; loaded without its header, which says that alpha is the rank."""
    reading = "from safetensors.torch import load_file"
    if not model.config.push_to_hub:
        return (reading,), repr(f"{adapter}/{ADAPTER_FILE}")
    imports = ("from huggingface_hub import hf_hub_download", reading)
    return imports, f"hf_hub_download({adapter!r}, {ADAPTER_FILE!r})"


def _anima(model: Any, base: str, dtype: str, adapter: str) -> Reader:
    package, dtype = "simpletuner.helpers.models.anima", f"torch_dtype=torch.{dtype}"
    imports, file = _adapter_file(model, adapter)
    steps, fresh = options_of(model.config).target_step_count, not model.twinflow_model.steps_are_conditioned
    settings = stock_settings(stock_scheduler(steps, fresh_noise=fresh, shifted_once=True))
    chosen = ", ".join(f"{name}={value!r}" for name, value in BY_SCHEDULER.items())

    def loaded(loader: str, part: str, *more: str) -> str:
        return f"{loader}.from_pretrained({', '.join((repr(base), f'subfolder={part!r}', *more))})"

    return Reader(
        (
            "from diffusers import AutoencoderKLQwenImage",
            f"from {package}.pipeline import AnimaPipeline",
            f"from {package}.scheduler import AnimaFlowMatchEulerDiscreteScheduler",
            f"from {package}.text_encoding import AnimaPromptTokenizer",
            f"from {package}.transformer import AnimaTransformerModel",
            *imports,
            "from transformers import AutoTokenizer, Qwen3Model",
        ),
        (
            "words = AnimaPromptTokenizer(",
            f"    {loaded('AutoTokenizer', 'tokenizer')},",
            f"    {loaded('AutoTokenizer', 't5_tokenizer')},",
            ")",
            "pipeline = AnimaPipeline(",
            f"    transformer={loaded('AnimaTransformerModel', 'transformer', dtype)},",
            f"    vae={loaded('AutoencoderKLQwenImage', 'vae', dtype)},",
            f"    text_encoder={loaded('Qwen3Model', 'text_encoder', dtype)},",
            "    prompt_tokenizer=words,",
            f"    scheduler=AnimaFlowMatchEulerDiscreteScheduler({settings}, {chosen}),",
            f"    model_{dtype.removeprefix('torch_')},",
            f"    text_encoder_{dtype.removeprefix('torch_')},",
            ")",
        ),
        NEEDS_HOST,
        # The pipeline's own method fails on it, since it makes an empty configuration of PEFT.
        adapter=(f"pipeline.transformer.load_lora_adapter(load_file({file}))",),
    )
