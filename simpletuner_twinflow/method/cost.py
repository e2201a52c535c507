"""What a run's settings cost, in passes through the network, before anything is trained."""

from collections.abc import Mapping

from simpletuner_twinflow.method.guidance import guided_every
from simpletuner_twinflow.method.roles import REAL_ROLES, Role
from simpletuner_twinflow.method.settings import ObjectiveSettings

BACKWARD = {"full": 2.0, "lora": 1.0}
"""A backward pass in forward passes: a frozen weight needs no gradient of its own."""


def passes(options: ObjectiveSettings, *, own_steps: bool = True) -> dict[str, float]:
    """Passes without gradient beside the student's own, by kind, for each row that is trained; means over many steps.

    The kinds are those of `Losses.forwards`: "generated", "guidance", "rollout", "rectify".

    Args:
        options: settled, so not with the reference "auto".
        own_steps: see `ObjectiveSettings.roles`.
    """
    roles = options.roles(own_steps=own_steps)
    largest = max(roles.values())
    whole = sum(value / largest for value in roles.values())
    share = {role: value / largest / whole for role, value in roles.items()}
    near, real = share.get(Role.near, 0.0), sum(share.get(role, 0.0) for role in REAL_ROLES)
    jumps, one_step = real - near, share.get(Role.one_step, 0.0)
    guided = 0.0
    if options.guides("velocity"):
        every_near, every_jump = guided_every(options)
        guided += 2 * (real if options.guidance_reference == "ema" else near / every_near + jumps / every_jump)
    rectifies = options.adversarial_enabled and options.rectify_weight > 0
    if rectifies and options.guides("rectify"):
        guided += 2 * one_step
    return {
        "generated": 1.0 if options.image_free else share.get(Role.twin, 0.0),
        "guidance": guided,
        "rollout": options.estimate_order * jumps,
        "rectify": 2 * one_step if rectifies else 0.0,
    }


def step_ratio(more: Mapping[str, float], model_type: str) -> float:
    """The network's work in a step of TwinFlow against one of plain training.

    Args: more: of `passes`; model_type: "full" or "lora".
    """
    plain = 1 + BACKWARD[model_type]
    return (plain + sum(more.values())) / plain
