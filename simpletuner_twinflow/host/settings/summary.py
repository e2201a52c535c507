"""What a TwinFlow run will do, in about ten lines: said at its start, recorded with it, and foretold by `doctor`."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from simpletuner_twinflow.host.settings.conflict_rows import AUXILIARY, as_number, is_left_out, is_set
from simpletuner_twinflow.host.settings.deepspeed_config import KEY, deepspeed_settings, zero_stage
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


class Processes(NamedTuple):
    """The processes of a run."""

    all: int = 1
    sharing: int = 1  # those of them that train on one batch together, by context parallelism

    @property
    def groups(self) -> int:
        """Of processes, each with data of its own."""
        return self.all // self.sharing

    @classmethod
    def configured(cls, config: Any) -> "Processes":
        """As a configuration has them. Args: config: the host's keys."""
        keys = ("num_processes", "num_machines", "context_parallel_size")
        count, machines, sharing = (max(int(as_number(getattr(config, key, None)) or 1), 1) for key in keys)
        return cls(max(count, machines, sharing), sharing)


def summary(
    options: TwinFlowOptions,
    config: Any,
    times: Sequence[float] = (),
    *,
    own_steps: bool,
    processes: Processes | None = None,
) -> dict[str, str]:
    """What is known of a run from its configuration, by title.

    Args:
        options: settled.
        config: the host's, parsed.
        times: at which the sampler of a run with so many target steps calls the network, where they are known.
        own_steps: whether these steps are trained as such.
        processes: of the run; by default those of the configuration.
    """
    processes = processes or Processes.configured(config)
    count = options.target_step_count
    more = passes(options, own_steps=own_steps)
    between = "" if count == 1 else " by Euler steps" if own_steps else " with fresh noise in between"
    levels = f", at times {', '.join(f'{time:.3g}' for time in times)}" if times else ""
    total = sum(more.values())
    kinds = ", ".join(f"{kind} {number:.3g}" for kind, number in more.items() if number)
    auxiliary = [key for key in AUXILIARY if is_set(getattr(config, key, False)) and not is_left_out(key, vars(config))]
    beside = ", ".join(key.removesuffix("_enabled") for key in auxiliary)
    return {
        "draws": f"in {count} step{'s' * (count > 1)}{between}{levels}, without guidance",
        "trains": _rows(options, config, processes, own_steps=own_steps),
        "engine": _engine(config, processes),
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


def _rows(options: TwinFlowOptions, config: Any, processes: Processes, *, own_steps: bool) -> str:
    roles = options.roles(own_steps=own_steps)
    largest = max(roles.values())
    whole = sum(value / largest for value in roles.values())
    rectifies = options.adversarial_enabled and options.rectify_weight > 0
    parts: list[str] = []
    for role, value in roles.items():
        terms = TERMS[role] + (" and rectify" if role is Role.one_step and rectifies else "")
        if value > 0:
            of_rows = "" if parts else " of the rows"
            parts.append(f"{terms} on {_share(value / largest / whole)}{of_rows} ({role})")
    rows = int(config.train_batch_size) * int(config.gradient_accumulation_steps or 1)
    groups = processes.groups
    data = "the model's own samples" if options.image_free else "the data"
    said = f"{rows * groups} row{'s' * (rows * groups > 1)} of {data} a step"
    if groups > 1:
        who = "process" if processes.sharing == 1 else f"group of {processes.sharing} processes"
        said += f", {rows} a {who}"
    turns = ", so that the kinds take turns from step to step" if rows * groups < len(parts) else ""
    return f"{', '.join(parts)}; {said}{turns}"


def _engine(config: Any, processes: Processes) -> str:
    """How several processes share the work; "" where there is one, and nothing that shards."""
    settings = deepspeed_settings(getattr(config, KEY, None))
    if settings is not None:
        name = f"DeepSpeed, stage {zero_stage(settings)} of ZeRO"
    elif is_set(getattr(config, "fsdp_enable", False)):
        name = "FSDP 2"
    elif processes.all == 1:
        return ""
    else:
        name = "data-parallel (DDP)" if processes.sharing < processes.all else "context parallelism"
    shared = f", {processes.sharing} of them sharing each sample's tokens" if processes.sharing > 1 else ""
    return f"{name}, {processes.all} process{'es' * (processes.all > 1)}{shared}"


def _share(value: float) -> str:
    """As a fraction of small numbers where it is one, else in percent."""
    near = Fraction(value).limit_denominator(24)
    return str(near) if abs(near - value) < 1e-6 else f"{value:.2%}"


def _teacher(config: Any) -> str:
    if not config.use_ema:
        return "the student itself: use_ema is off"
    return f"EMA of the trained weights, decay {config.ema_decay}"
