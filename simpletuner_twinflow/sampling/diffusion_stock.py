"""The closest that stock diffusers comes to `TwinFlowDiffusionScheduler`, for use where this package is not installed.

`LCMScheduler` makes the sampler's own update: the clean estimate, noised afresh to the next level. It takes whole
timesteps only. Given the sampler's, rounded (`stock_timesteps`), and the same generator, a picture differs by 0.0005 of
the latents' scale; by its own even spacing it asks the network a little off the levels that were trained.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import LCMScheduler

from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler, complete

MAX_STEPS = 8
_NEARLY = 0.005  # of the flow's time: what of its nearness a scheduler may give up to serve all numbers of steps
# A scheduler of training clips the clean estimate to [-1, 1] by default, which latents are not confined to.
_MODELS_OWN = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
_ALWAYS = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading"}


def stock_diffusion_scheduler(config: Mapping[str, Any], steps: int) -> LCMScheduler | None:
    """A stock scheduler that starts at the model's last time and whose levels are near the sampler's.

    It serves 1 to 8 steps where such a one is as near, and else refuses those that it does not serve, by a ValueError.

    Args:
        config: of any scheduler with the model's noise schedule and kind of prediction.
        steps: that the model is sampled in.

    Returns:
        The scheduler, or None for an epsilon model with zero terminal SNR: at the last time, where stock diffusers
        begins, its prediction is divided by zero.
    """
    ours = TwinFlowDiffusionScheduler.from_config(config)
    if ours.path.sigma_max < 1 and ours.alphas_cumprod[-1] == 0:
        return None
    ours.set_timesteps(steps)
    levels, last = ours.path.sigma(ours.timesteps), ours.path.last_time

    def distance(original_steps: int) -> float:
        stock = _made(config, original_steps)
        stock.set_timesteps(steps)
        return float((ours.path.sigma(stock.timesteps) - levels).abs().max())

    # Of these alone the first timestep is the model's last time.
    divisors = [count for count in range(steps, last + 2) if (last + 1) % count == 0]
    near = {count: distance(count) for count in divisors}
    nearest = [count for count in divisors if near[count] <= min(near.values()) + _NEARLY]
    return _made(config, min(nearest, key=lambda count: (count < MAX_STEPS, near[count])))


def stock_diffusion_settings(scheduler: LCMScheduler) -> dict[str, Any]:
    """The arguments that make such a scheduler anew: the model's own in full, of the rest what is not by default."""
    defaults = inspect.signature(LCMScheduler.__init__).parameters
    return {
        name: value
        for name, value in scheduler.config.items()
        if name in defaults and (name in _MODELS_OWN or value != defaults[name].default)
    }


def stock_timesteps(config: Mapping[str, Any], steps: int) -> list[int]:
    """The sampler's timesteps, rounded, for a pipeline's argument `timesteps`; the first is the model's last time."""
    ours = TwinFlowDiffusionScheduler.from_config(config)
    ours.set_timesteps(steps)
    _, *others = (round(time) for time in ours.timesteps.tolist())
    return [ours.path.last_time, *others]


def _made(config: Mapping[str, Any], original_steps: int) -> LCMScheduler:
    accepted = inspect.signature(LCMScheduler.__init__).parameters
    given = {name: value for name, value in complete(config).items() if name in accepted}
    return LCMScheduler(**given | _ALWAYS | {"original_inference_steps": original_steps})
