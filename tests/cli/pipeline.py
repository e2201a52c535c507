"""A pipeline's loop, without the pipeline."""

import torch

from tests.method.oracles import GaussianFlow

FLOW = GaussianFlow(mean=0.4, std=0.5)


def run(scheduler, noise, steps, network=None, **step_arguments):
    """What a pipeline does: ask the network at each timestep, step, go on from what comes back."""
    scheduler.set_timesteps(steps)
    x = noise
    for timestep, r in zip(scheduler.timesteps, scheduler.target_times, strict=True):
        t = torch.full((len(x),), float(timestep) / 1000, dtype=torch.float64)
        velocity = (network or FLOW.average_velocity)(x, t, r.expand(len(x)).double()).to(x.dtype)
        x = scheduler.step(velocity, timestep, x, return_dict=False, **step_arguments)[0]
    return x
