"""The closest that stock diffusers comes to the few-step samplers, for use where this package is not installed.

Of a flow that is `FlowMatchEulerDiscreteScheduler`, with the sampler's own sigmas. Of an epsilon or v
model it is `LCMScheduler`, which makes the sampler's own update at whole timesteps. Given the sampler's, rounded
(`stock_timesteps`), and the same generator, a picture differs by 0.0005 of the latents' scale; by its own even spacing
it calls the network a little off the sigmas that were trained.
"""

import inspect
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler

from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler, complete
from simpletuner_twinflow.sampling.schedule import SamplerSettings

MAX_STEPS = 8
_STOCK_SIGMA_MIN = 0.001  # where the stock grid ends before it is shifted: one of its 1000 timesteps
_NEARLY = 0.005  # of the flow's time: how much less near a scheduler may be that serves all numbers of steps
# A scheduler of training clips the clean estimate to [-1, 1] by default, and latents exceed that.
_MODELS_OWN = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
_ALWAYS = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading"}


def stock_scheduler(
    steps: int, *, even_sigmas: bool = False, fresh_noise: bool = False, shifted_once: bool = False
) -> FlowMatchEulerDiscreteScheduler:
    """A stock scheduler with the sampler's sigmas, in Karras' spacing from 1 to one over the number of steps.

    In a pipeline that hands over even sigmas it has them at any number of steps. In one that does not, the last sigma
    is a setting: it has them at `steps` and at 1, and at other numbers of steps ends where `steps` would.

    Args:
        steps: that the model is sampled in, 1 to 8. A model for one step is given the last sigma of two.
        even_sigmas: whether the pipeline hands its scheduler sigmas from 1 to 1 / steps (`pipelines.EVEN_SIGMAS`).
        fresh_noise: whether the sampler noises anew between the steps. Its sigmas are even then, and Karras' as much as
            0.04 off at 3 and 4 steps, 0.09 from 5 on.
        shifted_once: for a subclass whose own last sigma is not shifted where it is made, as Anima's.
    """
    count = max(steps, 2)
    last = SamplerSettings(stochastic_ratio=float(fresh_noise)).step_times(count)[-1]
    # The stock class shifts its own last sigma twice, when it is made and when it lays out a schedule.
    shift = _odds(last) / _odds(1 / count if even_sigmas else _STOCK_SIGMA_MIN)
    if not (even_sigmas or shifted_once):
        shift = math.sqrt(shift)
    made: FlowMatchEulerDiscreteScheduler = FlowMatchEulerDiscreteScheduler(
        use_karras_sigmas=True, shift=round(shift, 6), stochastic_sampling=fresh_noise
    )
    return made


# Of a pipeline that spaces its sigmas by a logit-normal distribution, which begins below 1.
SPACED_SHIFT = 100.0  # brings the first sigma from 0.9999 to 0.999999
SPACED_STD = 1.5  # of the normal distribution, by default
SPACED_SIZE = 512**2  # pixels of a picture for which its mean is the call's `mu`


def stock_scheduler_of_spaced_sigmas() -> FlowMatchEulerDiscreteScheduler:
    """A stock scheduler that has the sampler's sigmas in such a pipeline, where its call is given `mean_of_spacing`."""
    made: FlowMatchEulerDiscreteScheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True, shift=SPACED_SHIFT)
    return made


def mean_of_spacing(steps: int, pixels: int) -> float:
    """The `mu` of a call with which the pipeline's last sigma comes to one over the number of steps.

    Its sigmas are s(m + SPACED_STD q(k / steps)), k = steps ... 1, of the logistic function s, the normal quantile q
    and m = mu + log(pixels / SPACED_SIZE) / 2; the scheduler shifts them and keeps the first and the last.
    """
    if steps == 1:
        return 0.0
    quantile = NormalDist().inv_cdf(1 / steps)
    mean = math.log(_odds(1 / steps) / SPACED_SHIFT) - SPACED_STD * quantile
    return mean - 0.5 * math.log(pixels / SPACED_SIZE)


def inverted_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """A stock scheduler with the sampler's sigmas for a pipeline whose time is 1 at the data.

    The pipeline hands over even sigmas, and any number of steps has its own sigmas; its Euler steps are the sampler's
    where that draws no noise between them.
    """
    made: FlowMatchEulerDiscreteScheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, invert_sigmas=True, use_karras_sigmas=True
    )
    return made


def inverted_settings(scheduler: FlowMatchEulerDiscreteScheduler) -> str:
    """The arguments of `inverted_scheduler`, as code."""
    names = ("num_train_timesteps", "invert_sigmas", "use_karras_sigmas")
    return ", ".join(f"{name}={scheduler.config[name]!r}" for name in names)


def stock_settings(scheduler: FlowMatchEulerDiscreteScheduler) -> str:
    """The arguments of `stock_scheduler`, as code."""
    shift = f", shift={scheduler.shift!r}" if scheduler.shift != 1 else ""
    return (
        "use_karras_sigmas=True"
        + shift
        + (", stochastic_sampling=True" if scheduler.config["stochastic_sampling"] else "")
    )


def stock_diffusion_scheduler(config: Mapping[str, Any], steps: int) -> LCMScheduler | None:
    """A stock scheduler that starts at the model's last time and has sigmas near the sampler's.

    It serves 1 to 8 steps if one that does is as near; otherwise it raises ValueError for those it does not serve.

    Args:
        config: of any scheduler with the model's noise schedule and kind of prediction.
        steps: that the model is sampled in.

    Returns:
        The scheduler, or None for an epsilon model with zero terminal SNR: at the last time, where stock diffusers
        begins, its prediction is divided by zero.
    """
    ours = _sampler(config, steps)
    if ours.path.sigma_max < 1 and ours.alphas_cumprod[-1] == 0:
        return None
    sigmas, last = ours.path.sigma(ours.timesteps), ours.path.last_time

    def distance(original_steps: int) -> float:
        stock = _lcm(config, original_steps)
        stock.set_timesteps(steps)
        return float((ours.path.sigma(stock.timesteps) - sigmas).abs().max())

    # The first timestep is the model's last time for these alone.
    divisors = [count for count in range(steps, last + 2) if (last + 1) % count == 0]
    near = {count: distance(count) for count in divisors}
    nearest = [count for count in divisors if near[count] <= min(near.values()) + _NEARLY]
    return _lcm(config, min(nearest, key=lambda count: (count < MAX_STEPS, near[count])))


def stock_diffusion_settings(scheduler: LCMScheduler) -> dict[str, Any]:
    """The arguments that make such a scheduler anew: all of the model's own, and others that are not the default."""
    defaults = inspect.signature(LCMScheduler.__init__).parameters
    return {
        name: value
        for name, value in scheduler.config.items()
        if name in defaults and (name in _MODELS_OWN or value != defaults[name].default)
    }


def stock_timesteps(config: Mapping[str, Any], steps: int) -> list[int]:
    """The sampler's timesteps, rounded, for a pipeline's argument `timesteps`; the first is the model's last time."""
    ours = _sampler(config, steps)
    return [ours.path.last_time, *(round(time) for time in ours.timesteps[1:].tolist())]


def _sampler(config: Mapping[str, Any], steps: int) -> TwinFlowDiffusionScheduler:
    ours: TwinFlowDiffusionScheduler = TwinFlowDiffusionScheduler.from_config(config)
    ours.set_timesteps(steps)
    return ours


def _lcm(config: Mapping[str, Any], original_steps: int) -> LCMScheduler:
    accepted = inspect.signature(LCMScheduler.__init__).parameters
    given = {name: value for name, value in complete(config).items() if name in accepted}
    made: LCMScheduler = LCMScheduler(**given | _ALWAYS | {"original_inference_steps": original_steps})
    return made


def _odds(sigma: float) -> float:
    """A shift by S multiplies this by S."""
    return sigma / (1 - sigma)
