"""Where a pass is one of all ranks, every rank makes the same passes in the same order, whatever its rows' roles."""

import itertools

import pytest
import torch

from simpletuner_twinflow.method.objective import ObjectiveSettings, training_step
from tests.method.training_step import ANY, NEAR, ONE, STEP, STEPS, TWIN, Recorder, batch

ROLES = (ONE, NEAR, ANY, TWIN, STEP)
SETTINGS = [
    ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=0.5, guidance_reference="ema"),
    ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=0.5, guidance_reference="base", estimate_order=3),
    ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=0.0, rectify_weight=0.0),
    ObjectiveSettings(enhanced_ratio=0.0),
]


def step(roles, options, **settings):
    """Who was called, in order, and what came of it."""
    torch.manual_seed(0)
    called: list[str] = []

    def network(name):
        recorder = Recorder()

        def predict(*args):
            called.append(name)
            return recorder(*args)

        return predict

    networks = [network(name) for name in ("student", "teacher")]
    generator = torch.Generator().manual_seed(0)
    given = {"sampler_steps": STEPS, "base": network("base")} | settings
    return called, training_step(*batch(roles), roles, options, *networks, generator, **given)


@pytest.mark.parametrize("options", SETTINGS)
def test_every_rank_makes_the_passes_of_all_roles_in_one_order(options):
    possible = ROLES if options.adversarial_enabled else tuple(role for role in ROLES if role is not TWIN)
    everything, _ = step(possible, options)
    for count in (1, 2):
        for roles in itertools.product(possible, repeat=count):
            called, _ = step(roles, options, elsewhere=possible)
            assert called == everything


@pytest.mark.parametrize("options", SETTINGS)
def test_passes_for_other_ranks_change_no_loss(options):
    possible = ROLES if options.adversarial_enabled else tuple(role for role in ROLES if role is not TWIN)
    for role in possible:
        (_, alone), (_, together) = step((role,), options), step((role,), options, elsewhere=possible)
        assert together.total.equal(alone.total)
        assert {name: term.total for name, term in together.terms.items()} == {
            name: term.total for name, term in alone.terms.items()
        }


def test_roles_without_a_share_cost_nothing():
    options = SETTINGS[0]
    called, _ = step((NEAR,), options, elsewhere=(NEAR,))
    assert called == ["teacher", "teacher", "student"]  # the two of guidance and the row's own pass
