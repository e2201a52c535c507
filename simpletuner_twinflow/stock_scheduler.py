"""The closest that stock diffusers comes to the few-step sampler, for use where this package is not installed."""

from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow.scheduler import TwinFlowScheduler


def stock_scheduler(steps: int) -> FlowMatchEulerDiscreteScheduler:
    """A stock scheduler whose levels are the sampler's to 0.001, and which draws its noise anew between them.

    The stock grid runs evenly from 1 to its last level, ours from 0.999 to the same last level. It holds for every
    number of steps that shares that level: 2; 3 and 4; or 5 to 8. A schedule of one step has no last level to be
    stretched to, so a scheduler for 1 step is for that alone.

    Args:
        steps: that the model is sampled in, 1 to 8.
    """
    last = round(TwinFlowScheduler().step_times(steps)[-1], 6) if steps > 1 else None
    return FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, shift_terminal=last)


def stock_settings(steps: int) -> str:
    """The arguments of `stock_scheduler`, as code."""
    last = stock_scheduler(steps).config.shift_terminal
    return "stochastic_sampling=True" + (f", shift_terminal={last:g}" if last is not None else "")
