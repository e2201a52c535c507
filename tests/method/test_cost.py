"""What a run costs, foretold from its settings, is what its steps take."""

import pytest
import torch

from simpletuner_twinflow.method.cost import passes, step_ratio
from simpletuner_twinflow.method.objective import training_step
from simpletuner_twinflow.method.roles import RoleSampler
from simpletuner_twinflow.method.settings import ObjectiveSettings
from simpletuner_twinflow.sampling.schedule import SamplerSettings, trained_times
from tests.method.training_step import Recorder, batch

BRANCH = {"adversarial_enabled": True}
PLAIN = {"enhanced_ratio": 0.0}


@pytest.mark.parametrize("own_steps", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("reference", ["base", "ema"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        PLAIN,
        BRANCH,
        BRANCH | PLAIN,
        BRANCH | {"rectify_weight": 0.0},
        BRANCH | {"guidance_target": "rectify"},
        BRANCH | {"guidance_target": "both", "estimate_order": 3},
        BRANCH | {"image_free": True},
        {"role_shares": {"near": 1, "any_step": 3}},
    ],
    ids=str,
)
def test_passes_of_many_steps_are_the_ones_foretold(changes, reference, count, own_steps):
    options = ObjectiveSettings(**changes, guidance_reference=reference, target_step_count=count)
    own = own_steps and count > 1
    times = trained_times(SamplerSettings().step_times, count, own_steps=own)
    sampler, generator = RoleSampler(options.roles(own_steps=own_steps), seed=0), torch.Generator().manual_seed(0)
    network, taken, windows, rows = Recorder(), {}, 40, 30
    for window in range(windows):
        roles = sampler.sample(rows, window, rows)
        x, z, t = batch(roles, (1,))
        losses = training_step(
            x, z, t, roles, options, network, network, generator,
            step_times=times.jumps, sampler_steps=times.steps, base=network, turn=window,
        )  # fmt: skip
        for kind, number in losses.forwards.items():
            taken[kind] = taken.get(kind, 0) + number
    del taken["student"]
    measured = {kind: number / (windows * rows) for kind, number in taken.items()}
    assert passes(options, own_steps=own_steps) == pytest.approx(measured, abs=0.04)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (1, 4), (2, 1), (3, 2), (6, 1), (8, 2)])
@pytest.mark.parametrize("changes", [{}, BRANCH], ids=str)
def test_guided_rows_of_small_batches_are_counted_too(changes, batch_size, accumulation):
    options = ObjectiveSettings(**changes, guidance_reference="base", target_step_count=2)
    sampler, rows = RoleSampler(options.roles(), seed=5), batch_size * accumulation
    network, guided, windows = Recorder(), 0, 1 + 2_000 // rows
    for window in range(windows):
        for micro_batch in range(accumulation):
            roles = sampler.sample(batch_size, window, rows)
            x, z, t = batch(roles, (1,))
            losses = training_step(
                x, z, t, roles, options, network, network, torch.Generator().manual_seed(window),
                sampler_steps=((1.0, 0.5), (0.5, 0.0)), base=network, turn=window + micro_batch,
            )  # fmt: skip
            guided += losses.forwards["guidance"]
    found = passes(options)["guidance"]
    assert found == pytest.approx(guided / (windows * rows), abs=0.05)


def test_the_documented_default_costs_four_and_three_quarters_of_a_pass_and_four_and_a_third_without_guidance():
    guided = passes(ObjectiveSettings(guidance_reference="base"))
    assert sum(guided.values()) + 3 == pytest.approx(4.75)
    assert step_ratio(guided, "full") == pytest.approx(4.75 / 3)
    assert step_ratio(guided, "lora") == pytest.approx(3.75 / 2)
    assert sum(passes(ObjectiveSettings(enhanced_ratio=0.0)).values()) == pytest.approx(4 / 3)
