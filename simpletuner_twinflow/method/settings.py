"""What one training step computes: the part of a run's options that the objective needs."""

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from simpletuner_twinflow.declaration import Settings, option
from simpletuner_twinflow.method.roles import Role

MIN_SHARE = 1e-3  # of the largest share; a role with a smaller one would have no row for many steps
ADVERSARIAL = ("twinflow_enabled", "twinflow_adversarial_enabled")


def _from_json(value: Any) -> Any:
    """A JSON text's content; any other value unchanged. Raises: ValueError: It is not JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _read_range(value: Any) -> tuple[float, float]:
    found = _from_json(value)
    if not isinstance(found, list | tuple) or len(found) != 2 or not all(map(_is_number, found)):
        raise ValueError("not a list of two numbers")
    low, high = found
    if not 0 <= low <= high <= 1:
        raise ValueError("not low <= high within 0 to 1")
    return float(low), float(high)


def _read_shares(value: Any) -> Mapping[Role, float] | None:
    found = _from_json(value)
    if value is None:
        return None
    if not isinstance(found, Mapping) or not all(_is_number(share) and share >= 0 for share in found.values()):
        raise ValueError("not an object of numbers from 0 up")
    shares = {Role(name): float(share) for name, share in found.items()}
    largest = max(shares.values(), default=0.0)
    if not any(shares.get(role) for role in (Role.one_step, Role.near, Role.any_step)):
        raise ValueError("no real row would be trained")
    if any(0 < share < MIN_SHARE * largest for share in shares.values()):
        raise ValueError("a share is too small")
    return shares


def _is_number(value: Any) -> bool:
    """Whether a value is a number that fits a float; NaN does not."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


TimeRange = Annotated[tuple[float, float], BeforeValidator(_read_range)]
RoleShares = Annotated[Mapping[Role, float] | None, BeforeValidator(_read_shares)]


class ObjectiveSettings(Settings):
    """The settings of the objective; each is one of a run's options."""

    target_step_count: int = option(1, "target steps", ge=1, le=8, documented=True)
    """Number of sampling steps to train for, also used for validation (guidance is forced to 0). Recommended: 1 to 4.
    From 2 on each step is trained as such: draw with this number, others draw less well.
    """
    estimate_order: int = option(2, "RCGM order", ge=1, le=8, documented=True)
    """Jumps of the teacher's rollout in the RCGM target (N). Each costs one more teacher pass."""
    enhanced_ratio: float = option(
        0.5,
        "guidance ratio",
        ge=0,
        lt=1,
        note=" (the trained-in guidance scale is 1 / (1 - ratio), which has no finite value from 1 on)",
        documented=True,
    )
    """Guidance that is trained in, so that sampling needs none: the guidance scale is 1 / (1 - ratio), so 0.5 is a
    scale of 2. 0 leaves guidance out and saves its passes. The scale itself can be given instead, as guidance_scale.
    """
    delta_t: float = option(0.01, "RCGM delta t", ge=1e-4, le=0.5, documented=True)
    """Finite difference of the RCGM target, as a share of the path."""
    target_clamp: float = option(1.0, "target clamp", ge=1e-3, le=100, documented=True)
    """Largest correction, per element, that the RCGM target may make to the prediction."""
    adversarial_enabled: bool = option(False, "adversarial branch", documented=True)
    """Add the self-adversarial losses L_adv and L_rectify (full TwinFlow). No discriminator is trained."""
    adversarial_weight: float = option(1.0, "weight of L_adv", ge=0, le=100, requires=ADVERSARIAL, documented=True)
    """Weight of the velocity loss on generated samples, on negative time."""
    rectify_weight: float = option(1.0, "weight of L_rectify", ge=0, le=100, requires=ADVERSARIAL, documented=True)
    """Weight of the distribution matching loss on one-step samples."""
    loss: Literal["l2", "barron"] = option("l2", "distance of the loss")
    """Distance between prediction and target. barron: the robust loss of the published code (alpha 1, scale 1e-3),
    which weighs large errors less.
    """
    enhanced_range: TimeRange = option(
        (0.0, 1.0), "guidance range", allowed="a JSON list [low, high] with 0 <= low <= high <= 1"
    )
    """Times, ends included, at which guidance is applied, as [low, high]; 1 is noise."""
    time_weighting: bool = option(False, "time weighting")
    """Weigh real rows by tan((1 - (t - r)) pi / 2.5) + 1 as the published code does: short jumps count more."""
    image_free: bool = option(False, "image-free training", requires=ADVERSARIAL)
    """Train on the model's own one-step samples in place of the data; captions are still used. Needs the adversarial
    branch.
    """
    guidance_scale: float | None = option(None, "guidance scale", ge=1, le=100)
    """The trained-in guidance scale, given in place of enhanced_ratio (which is then 1 - 1 / scale); 1 is no guidance.
    """
    guidance_reference: Literal["auto", "base", "ema"] = option("auto", "guidance reference")
    """Whose velocities with and without the prompt say which way guidance goes. base: the frozen pre-trained network's,
    which stand still; a LoRA is switched off for it, a full fine-tune keeps a copy of its first weights. ema: the
    teacher's, the documented formula, which drifts. auto: base.
    """
    guidance_target: Literal["velocity", "rectify", "both"] = option("velocity", "guidance target")
    """Where guidance acts: in the velocity of real rows, in the direction of L_rectify (which needs the adversarial
    branch), or in both.
    """
    time_sampling: Literal["host", "uniform", "logit_normal"] = option("host", "time sampling")
    """Where the times of near and any_step rows come from. host: SimpleTuner's own, with its flow_schedule_* keys, for
    any_step rows with a target time uniform below. uniform: the same from 0 to 1. logit_normal: the logistic function
    of a standard normal number, for any_step rows of two of them, the larger as the time and the smaller as the target.
    """
    role_shares: RoleShares = option(
        None,
        "role shares",
        allowed=f"a JSON object with a number from 0 up for any of {', '.join(Role)}; at least one of the first "
        "three above 0, and none above 0 that is under a thousandth of the largest",
    )
    """Proportions in which rows train the parts of the objective. Unset: the same of each part that is trained, but
    near twice as much with guidance or from 2 target steps on. Then sampler_step stands in place of one_step, which
    keeps a share for the adversarial branch. A role left out gets no rows; twin belongs to the adversarial branch and
    is needed there.
    """

    def roles(self, *, own_steps: bool = True) -> Mapping[Role, float]:
        """The share of each role: `role_shares`, or the automatic ones.

        Args: own_steps: whether the sampler's own steps are trained from 2 target steps on; else jumps to the data are.
        """
        if self.role_shares is not None:
            return dict(self.role_shares)
        own_steps = own_steps and self.target_step_count > 1
        near = 2.0 if own_steps or self.guides("velocity") else 1.0
        shares = {Role.one_step: 1.0, Role.near: near, Role.any_step: 1.0}
        if self.adversarial_enabled:
            shares[Role.twin] = 1.0
        if own_steps:
            # Rectify needs jumps to the data, which no other part of a run of several steps does.
            shares |= {Role.sampler_step: 1.0, Role.one_step: float(self.adversarial_enabled)}
        return {role: share / sum(shares.values()) for role, share in shares.items()}

    @property
    def scale(self) -> float:
        """The trained-in guidance scale w, from 1, which is no guidance; given as such or as a ratio."""
        return 1 / (1 - self.enhanced_ratio) if self.guidance_scale is None else self.guidance_scale

    @property
    def ratio(self) -> float:
        """The same as rho = 1 - 1 / w, from 0 to below 1."""
        return self.enhanced_ratio if self.guidance_scale is None else 1 - 1 / self.guidance_scale

    def guides(self, target: Literal["velocity", "rectify"]) -> bool:
        """Whether guidance acts there."""
        return self.scale > 1 and self.guidance_target in (target, "both")
