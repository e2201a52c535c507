"""What a run's settings cost, in passes through the network, before anything is trained."""

from collections.abc import Mapping

from simpletuner_twinflow.method.roles import REAL_ROLES, Role, RoleSampler
from simpletuner_twinflow.method.settings import ObjectiveSettings

JUMPS = tuple(role for role in REAL_ROLES if role is not Role.near)
BACKWARD = {"full": 2.0, "lora": 1.0}
"""A backward pass in forward passes: a frozen weight needs no gradient of its own."""


ROWS, WINDOWS = 4000, 20  # how many roles are drawn for, at least, to count the guided rows of small batches


def passes(
    options: ObjectiveSettings, *, own_steps: bool = True, batch_size: int = 0, accumulation: int = 1
) -> dict[str, float]:
    """Passes without gradient beside the student's own, by kind, for each row that is trained; means over many steps.

    The kinds are those of `Losses.forwards`: "generated", "guidance", "rollout", "rectify".

    Args:
        options: settled, so not with the reference "auto".
        own_steps: see `ObjectiveSettings.roles`.
        batch_size: of a micro-batch, in which every second jump is guided and a single one always; 0 for many rows.
        accumulation: micro-batches of a step.
    """
    roles = options.roles(own_steps=own_steps)
    largest = max(roles.values())
    whole = sum(value / largest for value in roles.values())
    share = {role: value / largest / whole for role, value in roles.items()}
    near, real = share.get(Role.near, 0.0), sum(share.get(role, 0.0) for role in REAL_ROLES)
    jumps, one_step = real - near, share.get(Role.one_step, 0.0)
    guided = 0.0
    if options.guides("velocity"):
        by_ema = options.guidance_reference == "ema"
        few = 0 < batch_size * accumulation <= ROWS  # of many every second one is half of them
        half = _every_second_jump(roles, batch_size, accumulation) if few and not by_ema else jumps / 2
        guided += 2 * (real if by_ema else near + half)
    rectifies = options.adversarial_enabled and options.rectify_weight > 0
    if rectifies and options.guides("rectify"):
        guided += 2 * one_step
    return {
        "generated": 1.0 if options.image_free else share.get(Role.twin, 0.0),
        "guidance": guided,
        "rollout": options.estimate_order * jumps,
        "rectify": 2 * one_step if rectifies else 0.0,
    }


def _every_second_jump(roles: Mapping[Role, float], batch_size: int, accumulation: int) -> float:
    """The share of rows that are every second jump of their micro-batch, the first one included."""
    rows = batch_size * accumulation
    sampler, guided = RoleSampler(roles, seed=0), 0
    windows = max(WINDOWS, ROWS // rows)
    for window in range(windows):
        for _ in range(accumulation):
            drawn = sampler.sample(batch_size, window, rows)
            guided += (sum(role in JUMPS for role in drawn) + 1) // 2
    return guided / (windows * rows)


def step_ratio(more: Mapping[str, float], model_type: str) -> float:
    """The network's work in a step of TwinFlow against one of plain training.

    Args: more: of `passes`; model_type: "full" or "lora".
    """
    plain = 1 + BACKWARD[model_type]
    return (plain + sum(more.values())) / plain
