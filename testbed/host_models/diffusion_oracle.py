"""An epsilon or v network that knows the answer: the host's own, whose output is replaced."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def install_oracle(model: Any, answer: Callable[[Tensor, Tensor], Tensor]) -> list[dict[str, Any]]:
    """Let the network answer `answer(sample, abar)`, and write down what it is given.

    The host's network runs too, so its input is what it takes and the output is of its shape. abar is that of the
    host's own schedule at the network's timestep, between whole ones by other means than those under test.
    """
    abar, real, calls = model.noise_schedule.alphas_cumprod.double(), model.model.forward, []

    def forward(sample: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        (output,) = real(sample, *args, **kwargs)
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[0]
        calls.append({"sample": sample, "timestep": timestep, "args": args, "kwargs": kwargs})
        exact = answer(sample.double(), _between(abar, timestep.double())).to(output.dtype)
        # Beside epsilon the learned variance, if any, which nobody may take for a part of it.
        return (torch.cat([exact, torch.full_like(exact, 1e3)], dim=1) if output.shape[1] == 8 else exact,)

    model.model.forward = forward
    return calls


def _between(abar: Tensor, time: Tensor) -> Tensor:
    """abar between whole times: cubic through four of them in log SNR, where it is smooth; (B,)."""
    last = len(abar) - 1
    first = (time.floor().long() - 1).clamp(0, last - 3)
    places = torch.stack([first + offset for offset in range(4)])
    log_snr = torch.log(abar / (1 - abar)).clamp(min=-40)[places]
    total = torch.zeros_like(time)
    for here in range(4):
        others = [other for other in range(4) if other != here]
        weight = math.prod((time - first - other) / (here - other) for other in others)
        total = total + weight * log_snr[here]
    return torch.where(time == time.round(), abar[time.round().long().clamp(0, last)], torch.sigmoid(total))
