"""Every `twinflow_*` key, declared here and nowhere else.

The host's fields, the validators and `docs/options.md` are read off these declarations.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.roles import Role

PREFIX = "twinflow_"


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """What is known of a key beside its type and default."""

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    read: Callable[[Any], Any] | None = None  # makes the value of a JSON list or object; ValueError if it cannot be
    allowed: str = ""  # what `read` takes, in words
    requires: tuple[str, ...] = ("twinflow_enabled",)
    documented: bool = False  # one of the feature's twelve documented keys; the others are ours

    @property
    def range_text(self) -> str:
        """The allowed values in words, for errors and the documentation table."""
        if self.read:
            return self.allowed
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:.7g} to {self.maximum:.7g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        return "true or false"


def option(default: Any, **info: Any) -> Any:
    """A dataclass field that carries its `OptionInfo`."""
    return field(default=default, metadata={"info": OptionInfo(**info)})


def read_range(value: Any) -> tuple[float, float]:
    """Two times from a JSON list.

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(time) for time in value):
        raise ValueError("not a list of two numbers")
    low, high = map(float, value)
    if not 0 <= low <= high <= 1:
        raise ValueError("not low <= high within 0 to 1")
    return low, high


def read_shares(value: Any) -> dict[Role, float]:
    """The share of each role from a JSON object.

    Raises:
        ValueError: It is anything else, or no role has a share.
    """
    if not isinstance(value, dict) or not all(_is_number(share) and share >= 0 for share in value.values()):
        raise ValueError("not an object of numbers from 0 up")
    shares = {Role(name): float(share) for name, share in value.items()}
    if not any(shares.values()):
        raise ValueError("no role has a share")
    return shares


@dataclass(frozen=True, kw_only=True)
class TwinFlowOptions:
    """The options of a run; the key in a config is the name with `twinflow_` in front."""

    enabled: bool = option(
        False,
        label="Enable TwinFlow",
        help="Train for 1 to 4 step generation at guidance 0 with the TwinFlow losses. Leave distillation_method unset "
        "and scheduled sampling off.",
        requires=(),
        documented=True,
    )
    target_step_count: int = option(
        1,
        label="Target steps",
        help="Number of sampling steps to train for, also used for validation (guidance is forced to 0). "
        "Recommended: 1 to 4.",
        minimum=1,
        maximum=8,
        documented=True,
    )
    estimate_order: int = option(
        2,
        label="RCGM order",
        help="Jumps of the teacher's rollout in the RCGM target (N). Each costs one more teacher pass.",
        minimum=1,
        maximum=8,
        documented=True,
    )
    enhanced_ratio: float = option(
        0.5,
        label="Guidance ratio",
        help="Weight of the teacher's conditional minus unconditional velocity in the training target, so that "
        "sampling needs no guidance. 0 leaves it out and saves two teacher passes.",
        minimum=0.0,
        maximum=10.0,
        documented=True,
    )
    delta_t: float = option(
        0.01,
        label="RCGM delta t",
        help="Finite difference of the RCGM target, as a share of the path.",
        minimum=1e-4,
        maximum=0.5,
        documented=True,
    )
    target_clamp: float = option(
        1.0,
        label="Target clamp",
        help="Largest correction, per element, that the RCGM target may make to the prediction.",
        minimum=1e-3,
        maximum=100.0,
        documented=True,
    )
    require_ema: bool = option(
        True,
        label="Require EMA teacher",
        help="Refuse to start without use_ema. Set to false to accept the student as its own teacher.",
        documented=True,
    )
    allow_no_ema_teacher: bool = option(
        False,
        label="Allow student as teacher",
        help="Accept the student's own weights as the teacher when use_ema is off.",
        documented=True,
    )
    allow_diff2flow: bool = option(
        False,
        label="Allow diff2flow bridge",
        help="Together with diff2flow_enabled: train epsilon and v-prediction models through the flow bridge.",
        documented=True,
    )
    adversarial_enabled: bool = option(
        False,
        label="Adversarial branch",
        help="Add the self-adversarial losses L_adv and L_rectify (full TwinFlow). No discriminator is trained.",
        documented=True,
    )
    adversarial_weight: float = option(
        1.0,
        label="L_adv weight",
        help="Weight of the fake-path velocity loss on negative time.",
        minimum=0.0,
        maximum=100.0,
        requires=("twinflow_enabled", "twinflow_adversarial_enabled"),
        documented=True,
    )
    rectify_weight: float = option(
        1.0,
        label="L_rectify weight",
        help="Weight of the distribution matching loss on one-step samples.",
        minimum=0.0,
        maximum=100.0,
        requires=("twinflow_enabled", "twinflow_adversarial_enabled"),
        documented=True,
    )
    loss: Literal["l2", "barron"] = option(
        "l2",
        label="Loss",
        help='Distance between prediction and target: "l2", or "barron", the robust loss of the published code '
        "(alpha 1, scale 1e-3), which weighs large errors less.",
        choices=("l2", "barron"),
    )
    enhanced_range: tuple[float, float] = option(
        (0.0, 1.0),
        label="Guidance range",
        help="Times, ends included, at which the guidance ratio is applied, as [low, high]; 1 is noise.",
        read=read_range,
        allowed="a JSON list [low, high] with 0 <= low <= high <= 1",
    )
    time_weighting: bool = option(
        False,
        label="Time weighting",
        help="Weigh real rows by tan((1 - (t - r)) pi / 2.5) + 1 as the published code does: short jumps count more.",
    )
    image_free: bool = option(
        False,
        label="Image-free training",
        help="Train on the model's own one-step samples in place of the data; captions are still used. Needs the "
        "adversarial branch.",
        requires=("twinflow_enabled", "twinflow_adversarial_enabled"),
    )
    role_shares: Mapping[Role, float] | None = option(
        None,
        label="Role shares",
        help="Proportions in which rows are dealt to the parts of the objective. Unset: equal shares of all that are "
        "trained. A role left out gets no rows; twin belongs to the adversarial branch and is needed there.",
        read=read_shares,
        allowed=f"a JSON object with a number from 0 up for any of {', '.join(Role)}; at least one above 0",
    )
    time_conditioning: Literal["training_only", "signed_time", "none"] = option(
        "training_only",
        label="Time conditioning",
        help="How target time and time sign reach the network. training_only: small modules beside the time embedding, "
        "which sampling does not need. signed_time: one time t - r / 2, negative on the twin path, no extra weights "
        "(the published LoRA recipe). none: not at all, so not with the adversarial branch.",
        choices=("training_only", "signed_time", "none"),
    )
    export_weights: Literal["auto", "ema", "student"] = option(
        "auto",
        label="Exported weights",
        help='Weights of the final LoRA or pipeline. "auto": EMA where the run has it, else the student. Checkpoints '
        "hold both.",
        choices=("auto", "ema", "student"),
    )
    implementation: Literal["paper", "host"] = option(
        "paper",
        label="Implementation",
        help='"paper": this plugin\'s TwinFlow. "host": SimpleTuner\'s own, for comparison runs.',
        choices=("paper", "host"),
    )
    trajectory_interval: int = option(
        500,
        label="Trajectory chart interval",
        help="Steps between experimental trajectory charts on W&B (sigma against target time against sign). 0: none. "
        "Charts are thinned so that a run never logs more than 400 of them.",
        minimum=0,
        maximum=1_000_000,
    )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Read the options from a run's configuration, checking type and range of each.

        Args:
            values: The run's configuration; keys without the prefix and missing keys are passed over, None means
                "not set".

        Raises:
            TwinFlowConfigError: One line with the key, the value found, the allowed range and the way out.
        """
        read = {
            item.name: _checked(item, values[PREFIX + item.name])
            for item in dataclasses.fields(cls)
            if values.get(PREFIX + item.name) is not None
        }
        options = cls(**read)
        options._check_together()
        return options

    def _check_together(self) -> None:
        """Refuse what contradicts itself among the options while TwinFlow trains."""
        if not self.enabled or self.implementation == "host":
            return
        twin = (self.role_shares or {}).get(Role.twin, 0.0)
        if self.role_shares is not None and (twin > 0) != self.adversarial_enabled:
            raise TwinFlowConfigError(
                f"twinflow_role_shares gives twin {twin:g} while twinflow_adversarial_enabled is "
                f"{_as_json(self.adversarial_enabled)}: twin rows are what the adversarial branch trains on. Set "
                "both or neither."
            )
        if self.adversarial_enabled and self.time_conditioning == "none":
            raise TwinFlowConfigError(
                'twinflow_time_conditioning is "none" while twinflow_adversarial_enabled is true: without a time sign '
                'the real path would be trained on generated samples. Use "training_only" or "signed_time".'
            )
        if self.image_free and not self.adversarial_enabled:
            raise TwinFlowConfigError(
                "twinflow_image_free is true while twinflow_adversarial_enabled is false: without that branch nothing "
                "would tie the samples to what the base model knows. Set twinflow_adversarial_enabled to true or "
                "twinflow_image_free to false."
            )

    @classmethod
    def info(cls, name: str) -> OptionInfo:
        """The declaration of the option `name` (without prefix)."""
        return cls.__dataclass_fields__[name].metadata["info"]

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """All keys as they stand in a config, in the order of declaration."""
        return tuple(PREFIX + item.name for item in dataclasses.fields(cls))

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default of the option `name` as a user would write it; "unset" for none."""
        return _as_json(cls.__dataclass_fields__[name].default)

    @classmethod
    def type_of(cls, name: str) -> type:
        """bool, int, float or str; the type of a JSON list or object is str, as which the host hands it over."""
        if cls.info(name).read:
            return str
        return _plain_type(cls.__dataclass_fields__[name].type)


def check_spelling(keys: Iterable[str]) -> None:
    """Refuse a `twinflow_*` key that does not exist.

    Raises:
        TwinFlowConfigError: Names the key and the nearest right one.
    """
    known = TwinFlowOptions.keys()
    for key in keys:
        if key.startswith(PREFIX) and key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise TwinFlowConfigError(
                f"{key} is not a TwinFlow key; did you mean {nearest}? All keys: {', '.join(known)}"
            )


def _plain_type(annotation: Any) -> type:
    if typing.get_origin(annotation) is Literal:
        return str
    if isinstance(annotation, types.UnionType):
        return next(part for part in annotation.__args__ if part is not type(None))
    return annotation


def _checked(item: dataclasses.Field, value: Any) -> Any:
    key, info, kind = PREFIX + item.name, item.metadata["info"], _plain_type(item.type)
    problem = TwinFlowConfigError(
        f"{key} is {value!r}; allowed: {info.range_text}. Set it to a value in that range or remove it "
        f"(default {_as_json(item.default)})."
    )
    if info.read:
        try:
            return info.read(json.loads(value) if isinstance(value, str) else value)
        except ValueError as error:
            raise problem from error
    if kind is bool:
        if not isinstance(value, bool):
            raise problem
        return value
    if kind is str:
        if value not in info.choices:
            raise problem
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise problem
    if not info.minimum <= value <= info.maximum:  # also refuses NaN
        raise problem
    if kind is int and value != int(value):
        raise problem
    return kind(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_json(value: Any) -> str:
    """A default as a user would write it."""
    return value if isinstance(value, str) else "unset" if value is None else json.dumps(value)
