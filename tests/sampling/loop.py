"""A pipeline's loop, without the pipeline."""

import torch

from tests.method.oracles import GaussianFlow

FLOW = GaussianFlow(mean=0.4, std=0.5)


def run(scheduler, noise, steps, network=None, **step_arguments):
    """What a pipeline of a flow does: call the network at each timestep, step, go on from what comes back.

    The network is FLOW's exact average velocity by default. With inverted sigmas it is given the time that is 1 at the
    data, and returns the velocity towards the data.
    """
    scheduler.set_timesteps(steps)
    inverted, scale = scheduler.config.invert_sigmas, scheduler.config.num_train_timesteps
    x = noise
    for timestep, r in zip(scheduler.timesteps, scheduler.target_times, strict=True):
        t = torch.full((len(x),), float(timestep) / scale, dtype=torch.float64)
        velocity = (network or FLOW.average_velocity)(x, 1 - t if inverted else t, r.expand(len(x)).double()).to(
            x.dtype
        )
        velocity = -velocity if inverted else velocity
        x = scheduler.step(velocity, timestep, x, return_dict=False, **step_arguments)[0]
    return x
