"""Every `twinflow_*` key, declared here or, if the objective needs it, in `method.settings`.

The host's fields, the checks, the objective's settings and docs/options.md are made from these declarations.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self

from simpletuner_twinflow.declaration import RefusedSettingsError, cut, kind_of, option, shown
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import ObjectiveSettings

NAME = "twinflow"
PREFIX = f"{NAME}_"
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off")  # as the host reads text


class TwinFlowOptions(ObjectiveSettings):
    """The options of a run; the key in a config is the name with `twinflow_` in front."""

    enabled: bool = option(False, "few-step training", requires=(), documented=True)
    """Train for 1 to 4 step generation at guidance 0 with the TwinFlow losses. Leave distillation_method unset and
    scheduled sampling off.
    """
    require_ema: bool = option(True, "require EMA teacher", documented=True)
    """Refuse to start where use_ema is false; where it is not set it is turned on. Set to false to accept the student
    as its own teacher.
    """
    allow_no_ema_teacher: bool = option(False, "allow the student as teacher", documented=True)
    """Accept the student's own weights as the teacher when use_ema is off, as require_ema false does."""
    allow_diff2flow: bool = option(False, "allow the diff2flow bridge", documented=True)
    """Together with diff2flow_enabled: train epsilon and v-prediction models through the flow bridge."""
    time_conditioning: Literal["training_only", "signed_time", "none"] = option("training_only", "time conditioning")
    """How target time and time sign reach the network. training_only: small modules beside the time embedding, which
    sampling does not need. signed_time: one time t - r / 2, negative on the twin path, no extra weights (the published
    LoRA recipe). none: not at all, so not with the adversarial branch.
    """
    guidance_base_dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "dtype of the frozen base")
    """Of the copy that a full fine-tune keeps of its first weights for guidance. auto: the weights' own. In another
    dtype the copy is converted for each batch. A LoRA keeps no copy.
    """
    guidance_base_device: Literal["auto", "accelerator", "cpu"] = option("auto", "device of the frozen base")
    """Where that copy is kept. auto: on the accelerator. cpu: it is copied to the accelerator for each batch."""
    export_weights: Literal["auto", "ema", "student"] = option("auto", "exported weights")
    """Weights of the final LoRA or pipeline. auto: EMA where the run has it, else the student. Checkpoints hold both.
    """
    implementation: Literal["paper", "host"] = option("paper", "implementation")
    """paper: this plugin's TwinFlow. host: SimpleTuner's own, for comparison runs."""
    trajectory_interval: int = option(500, "interval of the trajectory chart", ge=0, le=1_000_000)
    """Steps between experimental trajectory charts on W&B (sigma against target time against sign). 0: none. Charts are
    thinned so that a run never logs more than 400 of them.
    """
    quality_samples: int = option(64, "samples for quality", ge=0, le=4096)
    """Samples with which the quality of few-step drawing is measured while training, in the model's own latents. 0: it
    is not measured.
    """
    quality_interval: int = option(0, "interval of quality", ge=0, le=1_000_000)
    """Steps between two measures; the last step has one too. 0: the fewest validation intervals at which it takes at
    most 3 percent of the network's work, and none in a run too short for that.
    """
    quality_sheet: int = option(4, "prompts on the contact sheet", ge=0, le=32)
    """Prompts of the contact sheet that is drawn beside each measure: each in 1, 2, 4 and 8 steps, by the base and as
    in the data. 0: none.
    """

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The options in a run's parsed configuration; keys without the prefix are ignored, None is "not set".

        Raises:
            TwinFlowConfigError: A line for each problem: the key, the value found, the allowed range and the way out.
        """
        options, refused = cls.read(values)
        if problems := [*refused.values(), *options.contradictions()]:
            raise TwinFlowConfigError(*problems)
        return options

    @classmethod
    def read(cls, values: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> tuple[Self, dict[str, str]]:
        """The options, with the default for values that are not allowed, and the errors of these values by key.

        Args:
            values: as for `from_mapping`.
            given: the same values as the user wrote them, for instance as text; the errors show these.
        """
        taken = {name: values[PREFIX + name] for name in cls.names() if values.get(PREFIX + name) is not None}
        try:
            return cls(**taken), {}
        except RefusedSettingsError as error:
            wrong = {name: taken.pop(name) for name in cls.names() if name in error.lines}
        keys = {PREFIX + name: name for name in wrong}
        lines = {key: cls.refusal(name, (given or values).get(key, wrong[name])) for key, name in keys.items()}
        return cls(**taken), lines

    @classmethod
    def refusal(cls, name: str, value: Any) -> str:
        """The error of a value that is not allowed: key, value, what is allowed, the way out."""
        if name not in cls.model_fields:
            return super().refusal(name, value)
        choices, json_text = cls.choices(name), not cls.choices(name) and cls.type_of(name) is str
        meant = next((choice for choice in choices if str(value).strip().lower() == choice), None)
        way_out = {bool: "true or false", str: "such a value"}.get(cls.type_of(name), "a value in that range")
        if choices:
            way_out = f'"{meant}"' if meant else "one of these"
        # Where JSON is read, a text is JSON already and is not quoted again.
        found = cut(" ".join(value.split())) if json_text and isinstance(value, str) and value.strip() else shown(value)
        return (
            f"{PREFIX}{name} is {found}; allowed: {cls.allowed(name)}. Set it to {way_out} or remove it "
            f"(default {cls.default_text(name)})."
        )

    def contradictions(self) -> Iterator[str]:
        """A line on each contradiction among the options of a run that this plugin trains."""
        if not self.enabled or self.implementation == "host":
            return
        twin = (self.role_shares or {}).get(Role.twin, 0.0)
        if self.role_shares is not None and (twin > 0) != self.adversarial_enabled:
            yield (
                f"twinflow_role_shares gives twin {twin:g} while twinflow_adversarial_enabled is "
                f"{shown(self.adversarial_enabled)}: twin rows are what the adversarial branch trains on. Set both or "
                "neither."
            )
        steps = (self.role_shares or {}).get(Role.sampler_step, 0.0)
        if steps > 0 and (self.target_step_count == 1 or self.time_conditioning != "training_only"):
            yield (
                f"twinflow_role_shares gives sampler_step {steps:g} while twinflow_target_step_count is "
                f"{self.target_step_count} and twinflow_time_conditioning {shown(self.time_conditioning)}: those rows "
                'train the steps of a sampler of 2 or more, by time conditioning "training_only". Set both so, or give '
                "the share to one_step."
            )
        if self.adversarial_enabled and self.time_conditioning == "none":
            yield (
                'twinflow_time_conditioning is "none" while twinflow_adversarial_enabled is true: without a time sign '
                'the real path would be trained on generated samples. Use "training_only" or "signed_time".'
            )
        if self.quality_samples == 1:
            yield (
                "twinflow_quality_samples is 1: a distance between sets needs two samples at least. Set it to 64 for "
                "figures that say something, or to 0 for no measure."
            )
        if self.image_free and not self.adversarial_enabled:
            yield (
                "twinflow_image_free is true while twinflow_adversarial_enabled is false: without that branch nothing "
                "would tie the samples to what the base model knows. Set twinflow_adversarial_enabled to true or "
                "twinflow_image_free to false."
            )

        rows = self.roles().get(Role.one_step, 0.0)
        rectifies = self.adversarial_enabled and self.rectify_weight > 0 and rows > 0
        if self.guides("rectify") and not rectifies:
            yield (
                f"twinflow_guidance_target is {shown(self.guidance_target)} while twinflow_adversarial_enabled is "
                f"{shown(self.adversarial_enabled)}, twinflow_rectify_weight {self.rectify_weight:g} and the share of "
                f"one_step rows {rows:g}: L_rectify is not trained, and guidance would not act in it. Set the first to "
                'true and the others above 0, or twinflow_guidance_target to "velocity".'
            )

    @classmethod
    def names(cls) -> list[str]:
        """All options; those that SimpleTuner documents first."""
        own = [name for name in cls.model_fields if name not in ObjectiveSettings.model_fields]
        return sorted([*own, *ObjectiveSettings.model_fields], key=lambda name: not cls.info(name).documented)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """All keys of a config."""
        return tuple(PREFIX + name for name in cls.names())

    @classmethod
    def default_text(cls, name: str) -> str:
        """An option's default as a user would write it."""
        default = cls.model_fields[name].default
        return default if isinstance(default, str) else "unset" if default is None else json.dumps(default)

    @classmethod
    def type_of(cls, name: str) -> type:
        """bool, int, float or str; str also for a list or object."""
        return kind_of(cls.model_fields[name])


def misspelt(keys: Iterable[str]) -> list[str]:
    """A line on each key that begins with the name and does not exist, with the nearest right one."""
    known = TwinFlowOptions.keys()
    wrong = [key for key in dict.fromkeys(keys) if key.lower().startswith(NAME) and key not in known]
    nearest = [difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.0)[0] for key in wrong]
    lines = [f"{key} is not a TwinFlow key; did you mean {near}?" for key, near in zip(wrong, nearest, strict=True)]
    return [f"{line} All keys are in docs/options.md." for line in lines[:1]] + lines[1:]


def from_text(key: str, text: Any) -> Any:
    """The value that a text from a config, the environment or the command line means; anything else unchanged."""
    if not isinstance(text, str):
        return text
    kind, stripped = TwinFlowOptions.type_of(key.removeprefix(PREFIX)), text.strip()
    if kind is bool and stripped.lower() in TRUE_WORDS + FALSE_WORDS:
        return stripped.lower() in TRUE_WORDS
    if kind in (int, float):
        try:
            return kind(stripped)
        except ValueError:
            return text
    return stripped if kind is str else text
