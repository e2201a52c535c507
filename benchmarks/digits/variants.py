"""What is compared: TwinFlow in full, each part of it changed in turn, and the other implementations."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from benchmarks.digits.network import TargetTime
from simpletuner_twinflow.method.objective import ObjectiveSettings
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.sampling.schedule import JUMPS, SamplerSettings, TrainedTimes, trained_times

EQUAL = (Role.one_step, Role.near, Role.any_step, Role.twin)
FULL = ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=0.0, guidance_reference="ema")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    name: str
    text: str  # for the table
    recipe: Literal["none", "roles", "tutorial", "host"] = "roles"  # none: the base model as it is
    objective: ObjectiveSettings = FULL
    target_time: TargetTime = "ours"
    ema_decay: float = 0.99  # reached by the published warm-up
    student_teacher: bool = False  # the student's weights teach; the average is still kept, to be judged
    label_dropout: float = 0.0

    @property
    def own_steps(self) -> bool:
        """Whether the sampler's own steps are trained, as in the host: from 2 target steps on."""
        return self.objective.target_step_count > 1

    @property
    def step_times(self) -> tuple[float, ...]:
        """The times at which the sampler of so many target steps calls the network."""
        return self.sampler.step_times(self.objective.target_step_count)

    @property
    def trained_times(self) -> TrainedTimes:
        """The jumps to the data and the sampler's own steps that are trained."""
        return trained_times(self.sampler.step_times, self.objective.target_step_count, own_steps=self.own_steps)

    @property
    def sampler(self) -> SamplerSettings:
        """What such a run is drawn by in the host: Euler steps where these are trained, else with fresh noise."""
        return SamplerSettings() if self.own_steps else SamplerSettings(**JUMPS)

    @property
    def definition(self) -> str:
        """All that decides the result but seed and steps, as text to compare."""
        settled = {"times": self.trained_times, "shares": self.objective.roles(own_steps=self.own_steps)}
        values = asdict(self) | {"objective": self.objective.model_dump()} | settled
        del values["text"]
        return json.dumps(values, sort_keys=True)


def _objective(name: str, text: str, **changes: object) -> Variant:
    return Variant(name=name, text=text, objective=FULL.changed(**changes))


def _guided(name: str, text: str, **changes: object) -> Variant:
    """The default branch with guidance against the frozen base."""
    guidance = {"adversarial_enabled": False, "enhanced_ratio": 0.5, "guidance_reference": "base"}
    return Variant(name=name, text=text, objective=FULL.changed(**guidance | changes))


_VARIANTS = (
    Variant(name="base", text="the base model, untouched", recipe="none", target_time="none"),
    Variant(
        name="flow_matching",
        text="plain flow matching, as long",
        objective=FULL.changed(adversarial_enabled=False, role_shares={Role.near: 1.0}),
    ),
    Variant(
        name="host_default",
        text="host's own TwinFlow, default branch",
        recipe="host",
        objective=FULL.changed(adversarial_enabled=False),
        target_time="none",
    ),
    Variant(name="host_adversarial", text="host's own TwinFlow, adversarial branch", recipe="host", target_time="none"),
    Variant(name="tutorial", text="tutorial's recipe, every term on every row", recipe="tutorial"),
    Variant(
        name="tutorial_rcgm",
        text="tutorial's recipe, RCGM only",
        recipe="tutorial",
        objective=FULL.changed(adversarial_enabled=False),
    ),
    Variant(name="full", text="**ours in full**"),
    _objective("steps_2", "target step count 2", target_step_count=2),
    _objective("steps_4", "target step count 4", target_step_count=4),
    _objective(
        "steps_2_default", "target step count 2, adversarial branch off", target_step_count=2, adversarial_enabled=False
    ),
    _objective(
        "steps_4_default", "target step count 4, adversarial branch off", target_step_count=4, adversarial_enabled=False
    ),
    _objective("equal_shares", "equal shares of rows", role_shares=dict.fromkeys(EQUAL, 1.0)),
    _objective("adversarial_off", "adversarial branch off", adversarial_enabled=False),
    _objective("rectify_off", "rectify off", rectify_weight=0.0),
    _objective("rectify_half", "rectify weight 0.5", rectify_weight=0.5),
    _objective("rectify_double", "rectify weight 2", rectify_weight=2.0),
    _objective("guidance", "guidance 0.5", enhanced_ratio=0.5),
    Variant(
        name="guidance_dropout",
        text="guidance 0.5, 10 % of labels dropped",
        objective=FULL.changed(enhanced_ratio=0.5),
        label_dropout=0.1,
    ),
    _guided("guided_1", "guidance 0.5 against the frozen base, adversarial branch off"),
    _guided("guided_2", "the same, target step count 2", target_step_count=2),
    _guided("guided_4", "the same, target step count 4", target_step_count=4),
    _guided("scale_3_1", "guidance scale 3", guidance_scale=3.0),
    _guided("scale_3_2", "guidance scale 3, target step count 2", guidance_scale=3.0, target_step_count=2),
    _guided("guided_full", "guidance 0.5 against the base, adversarial branch on", adversarial_enabled=True),
    _guided("guided_rectify", "in rectify alone", adversarial_enabled=True, guidance_target="rectify"),
    _guided("guided_both", "in velocity and rectify", adversarial_enabled=True, guidance_target="both"),
    _objective("guidance_range", "guidance 0.5 at times 0.3 to 1 only", enhanced_ratio=0.5, enhanced_range=(0.3, 1.0)),
    Variant(
        name="documented",
        text="documented defaults, 10 % of labels dropped",
        objective=FULL.changed(adversarial_enabled=False, enhanced_ratio=0.5),
        label_dropout=0.1,
    ),
    _objective("order_1", "order 1", estimate_order=1),
    _objective("order_3", "order 3", estimate_order=3),
    _objective("clamp_tenth", "target clamp 0.1", target_clamp=0.1),
    _objective("delta_t_20th", "delta t 0.05", delta_t=0.05),
    _objective("barron", "Barron loss", loss="barron"),
    _objective("time_weighting", "time weighting", time_weighting=True),
    Variant(name="target_time_none", text="no target time", target_time="none"),
    Variant(name="target_time_single", text="single time t - r/2", target_time="single"),
    Variant(name="target_time_published", text="target time by e(t) + (t - r) E(r)", target_time="published"),
    Variant(name="ema_999", text="EMA decay 0.999", ema_decay=0.999),
    Variant(name="student_teacher", text="student as teacher (EMA decay 0)", student_teacher=True),
    _objective(
        "near_off", "no rows at r = t", role_shares=dict.fromkeys((Role.one_step, Role.any_step, Role.twin), 1.0)
    ),
    _objective(
        "one_step_double",
        "twice as many one-step rows",
        role_shares={role: 2.0 if role is Role.one_step else 1.0 for role in EQUAL},
    ),
    _objective("image_free", "image free", image_free=True),
)

VARIANTS = {variant.name: variant for variant in _VARIANTS}
