"""`simpletuner-twinflow sample`: draw each prompt with each seed, and a contact sheet of all pictures.

Of a video model each draws an animation, and the sheet shows their first frames.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.pipelines import PipelineKind, guidance_arguments, kind_of

HELP = "draw each prompt with each seed in a few steps; writes PNGs and a contact sheet"
MAX_STEPS = 8
DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--pipeline", required=True, help="folder of a diffusers pipeline, or its name on the hub")
    parser.add_argument("--lora", help="LoRA to load into it: a .safetensors file, its folder, or its name on the hub")
    parser.add_argument("--prompt", required=True, action="append", help="may be given several times")
    parser.add_argument("--steps", type=_steps, default=2, help=f"network calls per picture, 1 to {MAX_STEPS}")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times (default: 0)")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="N seeds, counted up from --seed")
    parser.add_argument("--output", type=Path, default=Path("samples"), help="folder to write to")
    parser.add_argument("--height", type=_positive, help="of a picture (default: the pipeline's)")
    parser.add_argument("--width", type=_positive, help="of a picture (default: the pipeline's)")
    parser.add_argument("--frames", type=_positive, help="of a video (default: the pipeline's)")
    parser.add_argument("--fps", type=_positive, default=16, help="frames a second of a video's GIF, at most 50")
    parser.add_argument(
        "--guidance",
        type=float,
        help="scale (default: none, as it is trained in; where a network embeds the scale, 1, as it is trained)",
    )
    parser.add_argument("--max-sequence-length", type=_positive, help="of the prompt in tokens, as in training")
    parser.add_argument("--device", default="auto", help="auto: cuda, mps or cpu, whichever is there first")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: float32 on cpu, bfloat16 elsewhere")


def run(arguments: argparse.Namespace) -> None:
    """Draw.

    Raises:
        TwinFlowError: One line that names what is missing or does not fit.
    """
    seeds = _seeds(arguments.seed, arguments.seeds)
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TwinFlowError(f"--output {arguments.output}: {error.strerror}.") from error
    pipeline = load_pipeline(arguments.pipeline, arguments.lora, arguments.device, arguments.dtype, arguments.frames)
    how = {
        "num_inference_steps": arguments.steps,
        "height": arguments.height,
        "width": arguments.width,
        "max_sequence_length": arguments.max_sequence_length,
        "num_frames": arguments.frames,
    } | guidance_arguments(pipeline, arguments.guidance)
    rows = draw(pipeline, arguments.prompt, seeds, how, arguments.output, arguments.fps)

    from simpletuner_twinflow.cli.contact_sheet import contact_sheet

    columns = [f"seed {seed}" for seed in seeds]
    contact_sheet(rows, arguments.prompt, columns).save(arguments.output / "contact_sheet.png")
    kind = "videos" if is_video(pipeline) else "pictures"
    print(f"wrote {len(rows) * len(seeds)} {kind} and contact_sheet.png to {arguments.output}")


def load_pipeline(name: str, lora: str | None, device: str, dtype: str, frames: int | None = None) -> Any:
    """A stock pipeline on its device, with the few-step sampler for its kind of model.

    Raises:
        TwinFlowError: It cannot be found or loaded, or there is no sampler for it; before any of it is loaded where its
            class says so.
    """
    import diffusers
    import torch
    from packaging.version import Version

    from simpletuner_twinflow.sampling.choose import few_step_scheduler

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
        # diffusers 0.42 warns of the name that older versions know.
        keyword = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
        pipeline = diffusers.DiffusionPipeline.from_pretrained(name, **{keyword: getattr(torch, dtype)})
        pipeline.scheduler = few_step_scheduler(pipeline.scheduler, kind)
        if lora is not None:
            _load_lora(pipeline, lora)
        return pipeline.to(device)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise TwinFlowError(f"{lora or name} could not be loaded: {_one_line(error)}") from error


def draw(
    pipeline: Any, prompts: list[str], seeds: list[int], how: dict[str, Any], folder: Path, fps: int = 16
) -> list[list[Any]]:
    """One row of pictures a prompt, one column a seed; each is written to the folder as soon as it is drawn.

    Of a video the folder gets all frames, as a GIF, and the row the first.

    Raises:
        TwinFlowError: The pipeline does not accept the call.
    """
    import torch
    from tqdm.auto import tqdm

    pipeline.set_progress_bar_config(disable=True)
    if (guider := getattr(pipeline, "guider", None)) is not None:
        guider.disable()  # a guider at scale 0 would follow no prompt at all
    video = is_video(pipeline)
    how = {name: value for name, value in how.items() if value is not None} | {"output_type": "pil"}
    rows: list[list[Any]] = [[] for _ in prompts]
    with tqdm(total=len(prompts) * len(seeds), unit="video" if video else "picture") as progress:
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                # On the CPU, so that a seed means the same start on every device.
                generator = torch.Generator().manual_seed(seed)
                try:
                    result = pipeline(prompt=prompt, generator=generator, **how)
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
    """What is known of a pipeline's class, if it can draw from a prompt alone."""
    import diffusers

    kind = kind_of(class_name)
    if not hasattr(diffusers, class_name):
        raise TwinFlowError(
            f"diffusers {diffusers.__version__} has no {class_name}: drawing with it needs SimpleTuner."
        )
    if kind.needs_image:
        raise TwinFlowError(f"{class_name} draws from a picture, and sample has only prompts.")
    if frames is not None and not kind.video:
        raise TwinFlowError(f"--frames {frames}: {class_name} makes still pictures.")
    return kind


def _steps(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MAX_STEPS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of steps from 1 to {MAX_STEPS}")


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")


def _seeds(given: list[int] | None, count: int | None) -> list[int]:
    given = given or [0]
    if count is None:
        return given
    if len(given) > 1:
        raise TwinFlowError("--seeds counts up from one --seed; give --seed once, or leave --seeds out.")
    return list(range(given[0], given[0] + count))


def _must_be_there(option: str, name: str, needs: str) -> None:
    """Refuse a path that is not there; a name that could be one on the hub is left to diffusers."""
    path = Path(name)
    if path.is_file() and path.suffix == Path(needs).suffix == ".safetensors":
        return
    if path.is_dir():
        if not any(path.glob(needs)):
            raise TwinFlowError(f"{option} {name}: the folder has no {needs}.")
        return
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or path.suffix == ".safetensors":
        raise TwinFlowError(f"{option} {name}: no such folder{' or .safetensors file' if option == '--lora' else ''}.")


def _load_lora(pipeline: Any, lora: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise TwinFlowError(f"{type(pipeline).__name__} takes no LoRA.")
    path = Path(lora)
    if path.is_file():
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    else:
        pipeline.load_lora_weights(lora)


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _slug(prompt: str) -> str:
    return re.sub(r"\W+", "-", prompt).strip("-").lower()[:40] or "empty"
