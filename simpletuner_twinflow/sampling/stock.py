"""The closest that stock diffusers comes to the few-step sampler, for use where this package is not installed."""

import math

from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow.sampling.scheduler import TwinFlowScheduler

_STOCK_SIGMA_MIN = 0.001  # where the stock grid ends before it is shifted: one of its 1000 timesteps


def stock_scheduler(steps: int) -> FlowMatchEulerDiscreteScheduler:
    """A stock scheduler from level 1 to the sampler's last level, which draws its noise anew between the levels.

    It works at any number of steps, and at one step asks at level 1. Its levels are the sampler's to 0.001 at 1 and 2
    steps, 0.04 at 3 and 4, and 0.09 from 5 on. An even spacing as the sampler's is to be had by `shift_terminal`, which
    divides by zero in a run of one step; Karras spacing is the one of the stock spacings that needs nothing but the two
    ends and comes closest without scipy.

    Args:
        steps: that the model is sampled in, 1 to 8. A model for one step is given the levels of two.
    """
    last = TwinFlowScheduler().step_times(max(steps, 2))[-1]
    # The stock class shifts its last level twice, when it is made and when it lays out a schedule.
    shift = math.sqrt(_odds(last) / _odds(_STOCK_SIGMA_MIN))
    return FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, use_karras_sigmas=True, shift=round(shift, 4))


def stock_settings(steps: int) -> str:
    """The arguments of `stock_scheduler`, as code."""
    return f"stochastic_sampling=True, use_karras_sigmas=True, shift={stock_scheduler(steps).config.shift:g}"


def _odds(level: float) -> float:
    """A shift by S multiplies this by S."""
    return level / (1 - level)
