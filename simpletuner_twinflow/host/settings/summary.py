"""What a TwinFlow run will do, in about ten lines: said at its start, recorded with it, and foretold by `doctor`."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from simpletuner_twinflow.host.settings.conflict_rows import AUXILIARY, is_set
from simpletuner_twinflow.host.settings.guidance import described
from simpletuner_twinflow.method.cost import BACKWARD, passes, step_ratio
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.options import TwinFlowOptions

TERMS = {
    Role.one_step: "rcgm",
    Role.near: "real_velocity",
    Role.any_step: "rcgm",
    Role.twin: "adversarial",
    Role.sampler_step: "rcgm",
}
WIDTH = 10  # of the titles
MORE_LAYERS = "on all of them few steps were learnt much better (peft_lora_target_modules, docs/first-run.md)"


def summary(options: TwinFlowOptions, config: Any, times: Sequence[float] = (), *, own_steps: bool) -> dict[str, str]:
    """What is known of a run from its configuration, by title.

    Args:
        options: settled.
        config: the host's, parsed.
        times: at which the sampler of a run with so many target steps calls the network, where they are known.
        own_steps: whether these steps are trained as such.
    """
    count = options.target_step_count
    more = passes(options, own_steps=own_steps)
    between = "" if count == 1 else " by Euler steps" if own_steps else " with fresh noise in between"
    levels = f", at times {', '.join(f'{time:.3g}' for time in times)}" if times else ""
    total = sum(more.values())
    kinds = ", ".join(f"{kind} {number:.3g}" for kind, number in more.items() if number)
    beside = ", ".join(key.removesuffix("_enabled") for key in AUXILIARY if is_set(getattr(config, key, False)))
    return {
        "draws": f"in {count} step{'s' * (count > 1)}{between}{levels}, without guidance",
        "trains": _rows(options, config, own_steps=own_steps),
        "beside": f"SimpleTuner's {beside} on the rows of data, by its own weights" if beside else "",
        "guidance": described(options, config),
        "teacher": _teacher(config),
        "cost": (
            f"{total:.3g} passes without gradient beside each row's own ({kinds}), so about "
            f"{step_ratio(more, config.model_type):.2f} times the network's work of plain training"
        ),
    }


def recorded(options: TwinFlowOptions, config: Any, *, own_steps: bool) -> dict[str, float]:
    """What is added to the run's recorded configuration, by key. Args: as for `summary`."""
    more = passes(options, own_steps=own_steps)
    return {
        "twinflow/passes_per_row": round(1 + BACKWARD[config.model_type] + sum(more.values()), 3),
        "twinflow/network_cost_ratio": round(step_ratio(more, config.model_type), 3),
        "twinflow/trained_guidance_scale": round(options.scale, 3),
    }


def block(head: str, entries: Mapping[str, str]) -> str:
    """A headline, and below it a line for each entry."""
    return "\n".join([head, *(f"  {title:<{WIDTH}} {text}" for title, text in entries.items() if text)])


def _rows(options: TwinFlowOptions, config: Any, *, own_steps: bool) -> str:
    roles = options.roles(own_steps=own_steps)
    largest = max(roles.values())
    whole = sum(value / largest for value in roles.values())
    rectifies = options.adversarial_enabled and options.rectify_weight > 0
    parts = []
    for role, value in roles.items():
        terms = TERMS[role] + (" and rectify" if role is Role.one_step and rectifies else "")
        if value > 0:
            parts.append(f"{terms} on {_share(value / largest / whole)} ({role})")
    rows = int(config.train_batch_size) * int(config.gradient_accumulation_steps or 1)
    data = "the model's own samples" if options.image_free else "the data"
    return f"{', '.join(parts)} of {rows} row{'s' * (rows > 1)} a step and process, on {data}"


def _share(value: float) -> str:
    """As a fraction of small numbers where it is one, else in percent."""
    near = Fraction(value).limit_denominator(24)
    return str(near) if abs(near - value) < 1e-6 else f"{value:.2%}"


def _teacher(config: Any) -> str:
    if not config.use_ema:
        return "the student itself: use_ema is off"
    return f"EMA of the trained weights, decay {config.ema_decay}"
