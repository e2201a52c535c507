"""In bf16 the network is asked at the same times in training and in sampling, for every family.

bf16 holds no 649 and no 0.649, and each family's training and pipeline round at other places.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_batch, host_model
from testbed.host_models.oracle import named, tensors
from testbed.host_models.tiny import cached_text
from testbed.host_models.zoo import ZOO
from tests.host.families import test_sampling

HALF = torch.bfloat16
STEPS = (1, 4, 8)


def half_text(text: Any, prompt: str) -> dict[str, Tensor]:
    """What the host's cache gives a pipeline in a bf16 run."""
    return {
        name: value.to(HALF) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in cached_text(text, prompt).items()
    }


def asked(model: Any, run: Callable[[], Any]) -> list[tuple[Tensor, Tensor]]:
    """For each pass of a run: the times that the network is given, and what its time embedding is then given."""
    tiny = model.tiny
    real = getattr(model.model, tiny.predicts)
    given, embedded = [], []

    @wraps(real)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given.append(named(real, args, kwargs)[tiny.timestep].flatten()[:1].double())
        return real(*args, **kwargs)

    def note(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if len(embedded) < len(given):  # the first call of a pass; another embedding of a fixed time may follow
            embedded.append(next(iter(tensors([*args, *kwargs.values()])))[:1].flatten().double())

    module = model.model.get_submodule(model.family_of_run.time_embedding)
    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    with patch.object(model.model, tiny.predicts, forward), torch.no_grad(), torch.autocast("cpu", HALF):
        run()
    handle.remove()
    assert len(given) == len(embedded)
    return list(zip(given, embedded, strict=True))


@pytest.mark.filterwarnings("ignore:Unexpected input:UserWarning")  # of a modular pipeline
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("family", [name for name, tiny in ZOO.items() if tiny.draws and not tiny.ignores_time])
def test_network_is_trained_at_the_times_it_is_sampled_at(family, steps, folder):
    model = host_model(family, folder, dtype=HALF, twinflow_target_step_count=steps)
    adapter = family_model_of(model)
    model.family_of_run = adapter.family
    batch = host_batch(model)
    levels = adapter.scheduler().step_times(steps)
    assert levels == pytest.approx(type(adapter.scheduler())().step_times(steps), abs=2**-8)

    def train() -> None:
        for level in levels:
            t = torch.full((len(batch["latents"]),), level)
            there = adapter.at(batch, batch["noisy_latents"], t, torch.zeros_like(t), torch.ones_like(t))
            model.model_predict(prepared_batch=dict(there))

    make = test_sampling.pipeline_of
    with (
        patch.object(test_sampling, "cached_text", half_text),
        patch.object(test_sampling, "pipeline_of", lambda model, scheduler: make(model, scheduler).to(dtype=HALF)),
    ):
        drawn = asked(model, lambda: test_sampling.draw(model))
    trained = asked(model, train)
    if adapter.family.one_sample_a_pass:
        trained = trained[:: len(batch["latents"])]
    assert len(drawn) == len(trained) == steps
    for ours, theirs, level in zip(trained, drawn, levels, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ZOO[family].time(ours[0]), torch.tensor([level]).double(), rtol=1e-6, atol=1e-7)
        assert torch.equal(ours[1], theirs[1]), "after the network's own rounding"


def test_in_float32_the_times_are_the_levels_themselves(folder):
    adapter = family_model_of(host_model("sd3", folder, twinflow_target_step_count=2))
    assert adapter.scheduler().step_times(2) == pytest.approx((1.0, 0.5), abs=1e-12)
