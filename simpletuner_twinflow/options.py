"""Every `twinflow_*` key, declared here and nowhere else.

The host's fields, the validators and `docs/options.md` are read off these declarations.
"""

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.roles import Role

NAME = "twinflow"
PREFIX = f"{NAME}_"
REAL_ROLES = (Role.one_step, Role.near, Role.any_step)  # what trains on the data; twin rows are made by the model
LEAST_SHARE = (
    1e-3  # of a role that has rows, as a part of the largest share; a smaller one would be drawn for no row for long
)
SHOWN = 80  # characters of a value that an error shows
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off")  # as the host reads text


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """What is known of a key beside its type and default."""

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    below_maximum: bool = False  # whether the maximum itself is left out
    choices: tuple[str, ...] | None = None
    read: Callable[[Any], Any] | None = None  # makes the value of a JSON list or object; ValueError if it cannot be
    allowed: str = ""  # what `read` takes, in words
    note: str = ""  # what makes the range plain, said after it
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
            whole = "a whole number from " if isinstance(self.minimum, int) else ""
            to = "to below" if self.below_maximum else "to"
            return f"{whole}{self.minimum:.7g} {to} {self.maximum:.7g}{self.note}"
        return "true or false"

    def holds(self, number: float) -> bool:
        """Whether a number lies in the range; NaN does not."""
        above = self.minimum is None or self.minimum <= number
        below = self.maximum is None or (number < self.maximum if self.below_maximum else number <= self.maximum)
        return above and below


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
    low, high = value
    if not 0 <= low <= high <= 1:
        raise ValueError("not low <= high within 0 to 1")
    return float(low), float(high)


def read_shares(value: Any) -> dict[Role, float]:
    """The share of each role from a JSON object.

    Raises:
        ValueError: It is anything else, no real row would be trained, or a share is too small to be drawn.
    """
    if not isinstance(value, dict) or not all(_is_number(share) and share >= 0 for share in value.values()):
        raise ValueError("not an object of numbers from 0 up")
    shares = {Role(name): float(share) for name, share in value.items()}
    largest = max(shares.values(), default=0.0)
    if not any(shares.get(role) for role in REAL_ROLES):
        raise ValueError("no real row would be trained")
    if any(0 < share < LEAST_SHARE * largest for share in shares.values()):
        raise ValueError("a share is too small to be drawn")
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
        "sampling needs no guidance: the trained-in guidance scale is 1 / (1 - ratio), so 0.5 is a scale of 2. "
        "0 leaves it out and saves two teacher passes.",
        minimum=0.0,
        maximum=1.0,
        below_maximum=True,
        note=" (the trained-in guidance scale is 1 / (1 - ratio), which has no finite value from 1 on)",
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
        help="Weight of the velocity loss on generated samples, on negative time.",
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
        help="Proportions in which rows train the parts of the objective. Unset: equal shares of all that are "
        "trained. A role left out gets no rows; twin belongs to the adversarial branch and is needed there.",
        read=read_shares,
        allowed=f"a JSON object with a number from 0 up for any of {', '.join(Role)}; at least one of the first three "
        "above 0, and none above 0 that is under a thousandth of the largest",
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
        """Read the options from a run's parsed configuration, checking type and range of each.

        Args:
            values: The run's configuration; keys without the prefix and missing keys are passed over, None means
                "not set".

        Raises:
            TwinFlowConfigError: A line for each problem: the key, the value found, the allowed range and the way out.
        """
        options, refused = cls.read(values)
        if problems := [*refused.values(), *options.contradictions()]:
            raise TwinFlowConfigError(*problems)
        return options

    @classmethod
    def read(cls, values: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> tuple[Self, dict[str, str]]:
        """The options, with the default where a value cannot be taken.

        Args:
            values: as `from_mapping` takes them.
            given: the same values as the user wrote them, for the lines on them; where they stood as text, say.

        Returns:
            The options, and for each key whose value cannot be taken a line that says so.
        """
        read, problems = {}, {}
        for item in dataclasses.fields(cls):
            value = values.get(PREFIX + item.name)
            if value is None:
                continue
            try:
                read[item.name] = _checked(item, value)
            except ValueError:
                key = PREFIX + item.name
                problems[key] = _refusal(item, (given or values).get(key, value))
        return cls(**read), problems

    def contradictions(self) -> list[str]:
        """A line on each contradiction among the options; none while TwinFlow does not train."""
        if not self.enabled or self.implementation == "host":
            return []
        found = []
        twin = (self.role_shares or {}).get(Role.twin, 0.0)
        if self.role_shares is not None and (twin > 0) != self.adversarial_enabled:
            found.append(
                f"twinflow_role_shares gives twin {twin:g} while twinflow_adversarial_enabled is "
                f"{_as_json(self.adversarial_enabled)}: twin rows are what the adversarial branch trains on. Set "
                "both or neither."
            )
        if self.adversarial_enabled and self.time_conditioning == "none":
            found.append(
                'twinflow_time_conditioning is "none" while twinflow_adversarial_enabled is true: without a time sign '
                'the real path would be trained on generated samples. Use "training_only" or "signed_time".'
            )
        if self.image_free and not self.adversarial_enabled:
            found.append(
                "twinflow_image_free is true while twinflow_adversarial_enabled is false: without that branch nothing "
                "would tie the samples to what the base model knows. Set twinflow_adversarial_enabled to true or "
                "twinflow_image_free to false."
            )
        return found

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


def misspelt(keys: Iterable[str]) -> list[str]:
    """A line on each key that begins with the name and does not exist, with the nearest right one."""
    known = TwinFlowOptions.keys()
    wrong = [key for key in dict.fromkeys(keys) if key.lower().startswith(NAME) and key not in known]
    nearest = {key: difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.0)[0] for key in wrong}
    lines = [f"{key} is not a TwinFlow key; did you mean {near}? " for key, near in nearest.items()]
    return [line + f"All keys: {', '.join(known)}" if line is lines[0] else line.strip() for line in lines]


def from_text(key: str, text: str) -> Any:
    """What a text stands for as the value of a key; the text itself where it stands for nothing of the key's type.

    Config files, environment variables and command lines may all give a number or a switch as text.
    """
    kind, stripped = TwinFlowOptions.type_of(key.removeprefix(PREFIX)), text.strip()
    if kind is bool and stripped.lower() in TRUE_WORDS + FALSE_WORDS:
        return stripped.lower() in TRUE_WORDS
    if kind in (int, float):
        try:
            return kind(stripped)
        except ValueError:
            return text
    return stripped if kind is str else text


def _plain_type(annotation: Any) -> type:
    if typing.get_origin(annotation) is Literal:
        return str
    if isinstance(annotation, types.UnionType):
        return next(part for part in annotation.__args__ if part is not type(None))
    return annotation


def _refusal(item: dataclasses.Field, value: Any) -> str:
    key, info = PREFIX + item.name, item.metadata["info"]
    meant = next((choice for choice in info.choices or () if str(value).strip().lower() == choice), None)
    one_of = "one of these" if info.choices else "a value in that range" if info.maximum is not None else "such a value"
    way_out = f'"{meant}"' if meant else "true or false" if _plain_type(item.type) is bool else one_of
    text = " ".join(value.split()) if info.read and isinstance(value, str) else ""  # JSON is read, not quoted again
    found = _cut(text) if text else shown(value)
    return (
        f"{key} is {found}; allowed: {info.range_text}. Set it to {way_out} or remove it "
        f"(default {_as_json(item.default)})."
    )


def _checked(item: dataclasses.Field, value: Any) -> Any:
    """A value of an option. Raises: ValueError: it is none."""
    info, kind = item.metadata["info"], _plain_type(item.type)
    if info.read:
        try:
            return info.read(json.loads(value) if isinstance(value, str) else value)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if kind is str:
        if value not in info.choices:
            raise ValueError("not a choice")
    elif kind is bool or isinstance(value, bool):
        if type(value) is not kind:
            raise ValueError("not of this type")
    elif not isinstance(value, int if kind is int else int | float) or not info.holds(value):
        raise ValueError("out of range")
    return kind(value)


def _is_number(value: Any) -> bool:
    """Whether a value is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # false for NaN


def shown(value: Any) -> str:
    """A value for an error, as it stands in a JSON config; a long one is cut."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:  # a whole number of more digits than Python writes out
        text = f"a whole number of {value.bit_length()} bits"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _as_json(value: Any) -> str:
    """A default as a user would write it."""
    return value if isinstance(value, str) else "unset" if value is None else json.dumps(value)
