"""The UCGM sampler (arXiv:2505.07447) as the public TwinFlow code runs it, one update at a time.

`Walk` holds what an update needs from the ones before it, so that the same code serves the scheduler, which is stepped
by a pipeline, and `sample`, which has the whole loop.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import AverageVelocity, Endpoints, at_least_float32, endpoints
from simpletuner_twinflow.sampling.schedule import Call, SamplerSettings

Draw = Callable[[Tensor], Tensor]
"""`draw(like)`: standard normal noise of the shape, dtype and device of `like`."""


class Walk:
    """One run of the sampler from noise to data: an update a call, and what the updates must remember."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._settings = settings
        self._intervals = 0
        self._before: Endpoints | None = None  # the previous interval's estimates, for extrapolation
        self._half_way: tuple[Tensor, float, Tensor] | None = None  # x, level and z_hat that a correction goes back to

    def advance(self, call: Call, x: Tensor, velocity: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """The sample after a call, and the clean estimate of that call; both (B, ...).

        The update is `(1 - t') x_hat + t' (sqrt(1 - s) z_hat + sqrt(s) noise)` at the next level t'. The last call
        returns its estimate as it is, without noise or extrapolation.

        Args:
            call: the one made.
            x: the sample it was made at, (B, ...).
            velocity: the network's F, (B, ...).
            draw: source of fresh noise, called only where some is mixed in.
        """
        now = endpoints(x, velocity, x.new_full((1,), call.t))
        if call.corrects:
            return self._corrected(call, x, now), now.x_hat
        x_hat, z_hat = self._extrapolated(now)
        if call.end == 0:
            return now.x_hat, now.x_hat
        self._half_way = x, call.t, z_hat
        return (1 - call.end) * x_hat + call.end * self._partly_fresh(z_hat, x, draw), now.x_hat

    def advance_tokens(
        self, now: Tensor, following: Tensor, x: Tensor, velocity: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """The same update where every token has levels of its own; both (B, N, C).

        Args:
            now: level of each token, (B, N).
            following: the level that it goes on to, (B, N).
            x: the sample, (B, N, C).
            velocity: the network's F, (B, N, C).
            draw: source of fresh noise; at the last step it is drawn too, for tokens that may stand elsewhere.

        Raises:
            TwinFlowError: if the settings need estimates of other steps, which a token has at other levels.
        """
        if self._settings.extrapolation or self._settings.solver_order == 2:
            raise TwinFlowError("Tokens at levels of their own go with extrapolation 0 and solver_order 1 only.")
        now, following = now.unsqueeze(-1), following.unsqueeze(-1)
        x_hat, z_hat = x - now * velocity, x + (1 - now) * velocity
        z_hat = self._partly_fresh(z_hat, x, draw)
        return (1 - following) * x_hat + following * z_hat, x_hat

    def _partly_fresh(self, z_hat: Tensor, x: Tensor, draw: Draw) -> Tensor:
        share = self._settings.fresh_share  # noise that follows from a start follows from x, not from an estimate
        return math.sqrt(1 - share) * z_hat + math.sqrt(share) * draw(x) if share > 0 else z_hat

    def _extrapolated(self, now: Endpoints) -> Endpoints:
        before, self._before = self._before, now
        self._intervals += 1
        reach = self._settings.extrapolation
        # The reference lets two intervals pass first, although one would do.
        if before is None or reach == 0 or self._intervals < 3:
            return now
        return Endpoints(*(new + reach * (new - old) for new, old in zip(now, before, strict=True)))

    def _corrected(self, call: Call, x: Tensor, now: Endpoints) -> Tensor:
        """The interval done again with the mean of the two noise estimates, exactly as if that were constant in it."""
        if self._half_way is None:
            return x  # a run that was begun on a correction (image to image) has nothing to correct yet
        start, level, z_hat = self._half_way
        self._half_way = None
        keep = (1 - call.end) / (1 - level)
        return keep * start + (call.end - keep * level) * (z_hat + now.z_hat) / 2


class DerivedNoise:
    """Fresh noise that follows from the noise a run starts with, for callers that bring no generator.

    Each sample has a stream of its own, keyed by its start noise and the seed: the same start gives the same result
    whatever it is batched with, another start gives another, and no global random stream moves. Drawn on the CPU in
    float32, so all devices and dtypes agree.
    """

    def __init__(self, start: Tensor, seed: int = 0) -> None:
        rows = start.detach().to("cpu", torch.float32).contiguous().numpy()
        self._keys = [hashlib.blake2b(row.tobytes(), digest_size=32, salt=_bytes(seed)).digest() for row in rows]
        self._drawn = 0

    def __call__(self, like: Tensor) -> Tensor:
        if like.shape[0] != len(self._keys):
            raise TwinFlowError(f"The run began with {len(self._keys)} samples and now has {like.shape[0]}.")
        self._drawn += 1
        noise = [
            torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(self._seed_of(key)))
            for key in self._keys
        ]
        return torch.stack(noise).to(like)

    def _seed_of(self, key: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(_bytes(self._drawn), key=key, digest_size=7).digest())


def _bytes(number: int) -> bytes:
    return number.to_bytes(16, "big", signed=True)


@torch.no_grad()
def sample(
    predict: AverageVelocity, noise: Tensor, steps: int, settings: SamplerSettings, draw: Draw | None = None
) -> Tensor:
    """Sample with a plain average velocity, no pipeline needed.

    Args:
        predict: F(x, t, r) with t and r of shape (B,).
        noise: start noise, (B, ...); the result has its dtype, the state in between is float64.
        steps: number of network calls.
        settings: of the sampler.
        draw: source of fresh noise; by default it follows from the start noise, see `DerivedNoise`.
    """
    x, walk = noise.to(working_dtype(noise.device)), Walk(settings)
    draw = draw or DerivedNoise(noise)
    like = at_least_float32(noise)
    for call in settings.calls(steps):
        t, r = (like.new_full(noise.shape[:1], time) for time in (call.t, call.r))
        x, _ = walk.advance(call, x, predict(x.to(noise.dtype), t, r).to(x), draw)
    return x.to(noise.dtype)


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on the devices that have none."""
    return torch.float32 if device.type in ("mps", "npu") else torch.float64
