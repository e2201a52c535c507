"""The network with what TwinFlow adds to it: a target time r, and a sign of the time."""

from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.digits.setup import EMBED, Net
from simpletuner_twinflow.method.batch import ONE_STEP
from simpletuner_twinflow.method.time_conditioning import TargetTimeEmbedding, sampler_target_time

TargetTime = Literal["none", "single", "published", "ours"]
"""How r reaches the network: not at all; as the one time t - r/2; by e(t) + (t - r) E(r); by
e(t) + (r - r*(t)) E(t - r), where r* is the time to which the sampler steps from t, for one step 0."""


class TwinNet(nn.Module):
    """The average velocity F(x, t, r) of either sign. It starts as the pre-trained network: both additions are zero.

    The sign is a vector added on negative time only, so it is never used at inference.
    """

    def __init__(self, net: Net, target_time: TargetTime, step_times: tuple[float, ...] = ONE_STEP) -> None:
        super().__init__()
        self.net, self.target_time, self.step_times = net, target_time, step_times
        self.twin = nn.Parameter(torch.zeros(EMBED))
        if target_time in ("published", "ours"):
            self.target_time_embedding = TargetTimeEmbedding(EMBED, step_times)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, sign: Tensor, y: Tensor) -> Tensor:
        """F at x (N, 64) for t, r, sign and labels y, all (N,); t and r in [0, 1], sign +1 or -1."""
        term = (sign < 0).unsqueeze(1) * self.twin
        if self.target_time == "ours":
            term = term + self.target_time_embedding(t, r)
        elif self.target_time == "published":
            term = term + self.target_time_embedding(t, t - r)  # "ours" in t - r for r: (t - r) E(t - (t - r))
        elif self.target_time == "single":
            t = t - r / 2
        return self.net(x, t, y, term)

    def few_step_field(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """F at the target time of a network without the modules: 0, or where a sampler of several steps goes."""
        return self(x, t, sampler_target_time(t, self.step_times), torch.ones_like(t), y)

    def velocity_field(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """F at r = t."""
        return self(x, t, t, torch.ones_like(t), y)
