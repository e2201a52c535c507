"""A pipeline with the few-step sampler, and the pictures that it draws."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from packaging.version import Version
from safetensors import safe_open
from tqdm.auto import tqdm

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.choose import few_step_scheduler
from simpletuner_twinflow.sampling.pipelines import PipelineKind, kind_of
from simpletuner_twinflow.sampling.schedule import JUMPS

LORA_FILE = "pytorch_lora_weights.safetensors"  # in a folder that a run has exported to


def load_pipeline(
    name: str,
    lora: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    frames: int | None = None,
    time_dtype: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """A stock pipeline on its device, with the few-step sampler for its kind of model.

    Args:
        name: a folder, or a name on the hub.
        lora: a file, a folder, or a name on the hub.
        device: "auto": cuda, mps or cpu, whichever is there first.
        dtype: of the weights; "auto": float32 on the CPU, bfloat16 elsewhere.
        frames: number of frames that will be drawn, if any.
        time_dtype: of the sampler; "auto": the weights'.
        settings: of the sampler, see `few_step_scheduler`.

    Raises:
        TwinFlowError: It cannot be found or loaded, or there is no sampler for it; before any of it is loaded if its
            class says so.
    """
    _must_be_there("--pipeline", name, needs="model_index.json")
    if lora is not None:
        _must_be_there("--lora", lora, needs="*.safetensors")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    try:
        class_name = diffusers.DiffusionPipeline.load_config(name).get("_class_name", "")
        kind = _drawable(class_name, frames)
        # diffusers warns of the older name from 0.40 on.
        keyword = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"
        pipeline = diffusers.DiffusionPipeline.from_pretrained(name, **{keyword: getattr(torch, dtype)})
        time_dtype = dtype if time_dtype == "auto" else time_dtype
        if _noises_anew(pipeline, lora):
            settings = JUMPS | dict(settings or {})
        pipeline.scheduler = few_step_scheduler(pipeline.scheduler, kind, time_dtype, settings)
        if lora is not None:
            _load_lora(pipeline, lora)
        return pipeline.to(device)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise TwinFlowError(f"{lora or name} could not be loaded: {_one_line(error)}") from error


def draw(
    pipeline: Any, prompts: list[str], seeds: list[int], how: Mapping[str, Any], folder: Path, fps: int = 16
) -> list[list[Any]]:
    """One row of pictures a prompt, one column a seed. Each is written to the folder as soon as it is drawn.

    Of a video the file is a GIF of all frames, and the row has the first frame.

    Args:
        pipeline: from `load_pipeline`.
        prompts: one a row.
        seeds: one a column.
        how: further arguments of the pipeline's call; those that are None are left out.
        folder: where the files go.
        fps: frames a second of a GIF, at most 50.

    Raises:
        TwinFlowError: The pipeline does not accept the call.
    """
    pipeline.set_progress_bar_config(disable=True)
    if (guider := getattr(pipeline, "guider", None)) is not None:
        guider.disable()  # a guider at scale 0 would follow no prompt at all
    video = is_video(pipeline)
    given = {name: value for name, value in how.items() if value is not None} | {"output_type": "pil"}
    rows: list[list[Any]] = [[] for _ in prompts]
    with tqdm(total=len(prompts) * len(seeds), unit="video" if video else "picture") as progress:
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                # On the CPU, so that a seed means the same start on every device.
                generator = torch.Generator().manual_seed(seed)
                try:
                    result = pipeline(prompt=prompt, generator=generator, **given)
                except (TypeError, ValueError, RuntimeError) as error:
                    raise TwinFlowError(f"{type(pipeline).__name__} failed: {_one_line(error)}") from error
                [frames] = result.frames if video else [result.images]
                path = folder / f"{number:02d}-{_slug(prompt)}-seed{seed}"
                if video:
                    # A GIF counts time in hundredths of a second, and readers take less than two for slow motion.
                    pause = max(round(100 / fps), 2) * 10
                    frames[0].save(
                        path.with_suffix(".gif"), save_all=True, append_images=frames[1:], duration=pause, loop=0
                    )
                else:
                    frames[0].save(path.with_suffix(".png"))
                rows[number].append(frames[0])
                progress.update()
    return rows


def is_video(pipeline: Any) -> bool:
    """Whether a pipeline makes frames. Args: pipeline: of a class in `pipelines.PIPELINES`."""
    return kind_of(type(pipeline).__name__).video


def _drawable(class_name: str, frames: int | None) -> PipelineKind:
    """What is known of a pipeline's class. Raises: TwinFlowError: it cannot draw from a prompt alone."""
    kind = kind_of(class_name)
    if kind.song:
        raise TwinFlowError(f"{class_name} makes songs, and sample draws: the code in the model card makes one.")
    if not hasattr(diffusers, class_name):
        raise TwinFlowError(
            f"diffusers {diffusers.__version__} has no {class_name}: drawing with it needs SimpleTuner."
        )
    if kind.needs_image:
        raise TwinFlowError(f"{class_name} draws from a picture, and sample has only prompts.")
    if frames is not None and not kind.video:
        raise TwinFlowError(f"--frames {frames}: {class_name} makes still pictures.")
    return kind


def _must_be_there(option: str, name: str, needs: str) -> None:
    """Refuse a path that does not exist; a name that could be one on the hub is left to diffusers."""
    path = Path(name)
    if path.is_file() and path.suffix == Path(needs).suffix == ".safetensors":
        return
    if path.is_dir():
        if not any(path.glob(needs)):
            raise TwinFlowError(f"{option} {name}: the folder has no {needs}.")
        return
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or path.suffix == ".safetensors":
        raise TwinFlowError(f"{option} {name}: no such folder{' or .safetensors file' if option == '--lora' else ''}.")


def _noises_anew(pipeline: Any, lora: str | None) -> bool:
    """Whether the stock scheduler that a run exported, in the pipeline or beside the LoRA, draws fresh noise."""
    config: Mapping[str, Any] = pipeline.scheduler.config
    if lora is not None:
        path = Path(lora)
        file = (path.parent if path.is_file() else path) / "scheduler" / "scheduler_config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else config
    return bool(config.get("stochastic_sampling"))


def _load_lora(pipeline: Any, lora: str) -> None:
    path = Path(lora)
    file = path if path.is_file() else path / LORA_FILE
    if file.is_file() and _is_lycoris(file):
        _load_lycoris(pipeline, file)
    elif not hasattr(pipeline, "load_lora_weights"):
        raise TwinFlowError(f"{type(pipeline).__name__} takes no LoRA.")
    elif path.is_file():
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    else:
        pipeline.load_lora_weights(lora)


def _is_lycoris(file: Path) -> bool:
    with safe_open(file, "pt") as content:
        return all(key.startswith("lycoris_") for key in content.keys())  # noqa: SIM118 - it is no mapping


def _load_lycoris(pipeline: Any, file: Path) -> None:
    """Merge a LyCORIS adapter into the pipeline's network, by LyCORIS itself: diffusers cannot load it."""
    try:
        from lycoris import create_lycoris_from_weights
    except ImportError as error:
        raise TwinFlowError(f"{file} is a LyCORIS adapter: pip install lycoris-lora.") from error
    network = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    adapter, _ = create_lycoris_from_weights(1.0, str(file), network)
    if not adapter.loras:
        raise TwinFlowError(f"{file} has no layer of {type(network).__name__}: it is of another model.")
    adapter.merge_to()


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _slug(prompt: str) -> str:
    return re.sub(r"\W+", "-", prompt).strip("-").lower()[:40] or "empty"
