"""`simpletuner-twinflow sample`: draw each prompt with each seed, and a contact sheet of all pictures.

A video model draws an animation for each, and the sheet shows their first frames.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.pipelines import guidance_arguments
from simpletuner_twinflow.sampling.schedule import TIME_DTYPES, SamplerSettings, Style

HELP = "draw each prompt with each seed in a few steps; writes PNGs and a contact sheet"
MAX_STEPS = 8
DEFAULTS = SamplerSettings()
SETTINGS = ("style", "stochastic_ratio", "sigma_max", "sigma_min", "shift")  # flags of the same names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add = parser.add_argument
    add("--pipeline", required=True, help="folder of a diffusers pipeline, or its name on the hub")
    add("--lora", help="LoRA to load into it: a .safetensors file, its folder, or its name on the hub")
    add("--prompt", required=True, action="append", help="may be given several times")
    add("--steps", type=_steps, default=2, help=f"network calls per picture, 1 to {MAX_STEPS}")
    add("--seed", type=int, action="append", help="may be given several times (default: 0)")
    add("--seeds", type=_positive, metavar="N", help="N seeds, counted up from --seed")
    add("--output", type=Path, default=Path("samples"), help="folder to write to")
    add("--height", type=_positive, help="of a picture (default: the pipeline's)")
    add("--width", type=_positive, help="of a picture (default: the pipeline's)")
    add("--frames", type=_positive, help="of a video (default: the pipeline's)")
    add("--fps", type=_positive, default=16, help="frames a second of a video's GIF, at most 50")
    add(
        "--guidance",
        type=float,
        help="scale (default: none, as it is trained in; if the network embeds the scale, 1, as in training)",
    )
    add("--max-sequence-length", type=_positive, help="of the prompt in tokens, as in training")
    add("--device", default="auto", help="auto: cuda, mps or cpu, whichever is there first")
    add("--dtype", choices=("auto", *TIME_DTYPES), default="auto", help="auto: float32 on cpu, bfloat16 elsewhere")
    _add_sampler_arguments(parser.add_argument_group("sampler", "docs/sampling.md explains these.").add_argument)


def _add_sampler_arguments(add: Callable[..., Any]) -> None:
    add("--time-dtype", choices=("auto", *TIME_DTYPES), default="auto", help="dtype of training; auto: that of --dtype")
    add(
        "--style",
        choices=get_args(Style),
        default=DEFAULTS.style,
        help="few and any: for few-step models; multi: plain Euler, for a model that is not one",
    )
    add(
        "--stochastic-ratio",
        type=float,
        help="share of noise drawn anew in each step, 0 to 1 (default: 0; for few of an epsilon or v model 1)",
    )
    add("--sigma-max", type=float, help="sigma of the first step, above 0 up to 1 (default: 1; with fresh noise 0.999)")
    add(
        "--sigma-min",
        type=float,
        help="sigma of the last step (default: 1 / steps; with fresh noise 0.6 up to 2 steps, 0.5 up to 4, 0.3 above; "
        "multi: evenly down to 0)",
    )
    add("--shift", type=float, default=DEFAULTS.shift, help="moves each sigma s to shift s / (1 + (shift - 1) s)")


def run(arguments: argparse.Namespace) -> None:
    """Draw.

    Raises:
        TwinFlowError: One line that names what is missing or does not fit.
    """
    seeds, settings = _seeds(arguments.seed, arguments.seeds), _settings(arguments)
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TwinFlowError(f"--output {arguments.output}: {error.strerror}.") from error

    # Here, so that `--help` and wrong arguments do not wait for torch and diffusers.
    from simpletuner_twinflow.cli.drawing import draw, is_video, load_pipeline
    from simpletuner_twinflow.quality.contact_sheet import contact_sheet

    pipeline = load_pipeline(
        arguments.pipeline,
        lora=arguments.lora,
        device=arguments.device,
        dtype=arguments.dtype,
        frames=arguments.frames,
        time_dtype=arguments.time_dtype,
        settings=settings,
    )
    how = {
        "num_inference_steps": arguments.steps,
        "height": arguments.height,
        "width": arguments.width,
        "max_sequence_length": arguments.max_sequence_length,
        "num_frames": arguments.frames,
    } | guidance_arguments(pipeline, arguments.guidance)
    rows = draw(pipeline, arguments.prompt, seeds, how, arguments.output, arguments.fps)
    columns = [f"seed {seed}" for seed in seeds]
    contact_sheet(rows, arguments.prompt, columns).save(arguments.output / "contact_sheet.png")
    kind = "videos" if is_video(pipeline) else "pictures"
    print(f"wrote {len(rows) * len(seeds)} {kind} and contact_sheet.png to {arguments.output}")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampler's settings that were given. Raises: TwinFlowConfigError: no run is possible with them."""
    given = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    SamplerSettings(**given).sigmas(arguments.steps)
    return {
        name: value for name, value in given.items() if name == "stochastic_ratio" or value != getattr(DEFAULTS, name)
    }


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
