"""The terms of an accumulation window: what is kept, what a mean is over, what is said of a loss that is not finite."""

import math

import pytest
import torch
from accelerate import Accelerator

from simpletuner_twinflow.host.training.meter import NAMES, WindowMeter
from simpletuner_twinflow.method.batch import RoleBatch
from simpletuner_twinflow.method.objective import Term
from simpletuner_twinflow.method.roles import Role


def rows(*roles):
    """Samples of these roles, at t = 0.1, 0.2, ..."""
    count = len(roles)
    t, ends = 0.1 * torch.arange(1.0, count + 1), torch.zeros(count, 1)
    sign = torch.tensor([-1.0 if role is Role.twin else 1.0 for role in roles])
    return RoleBatch(roles, x=ends, z=ends, t=t, r=t / 2, sign=sign, x_t=ends, velocity=ends)


def term(total, count):
    return Term(total=torch.tensor(float(total)), rows=count)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_mean_is_over_the_windows_rows_and_not_over_its_micro_batches(accelerator):
    meter = WindowMeter()
    meter.add(0, {"rcgm": term(6, 3), "rectify": term(1, 1)}, rows(Role.near))
    meter.add(1, {"rcgm": term(10, 1)}, rows(Role.near))
    assert meter.means(accelerator) == {"rcgm": (6 + 10) / (3 + 1), "rectify": 1}


def test_term_without_rows_is_left_out_and_a_term_of_zero_is_not(accelerator):
    meter = WindowMeter()
    meter.add(0, {"rcgm": term(0, 2), "adversarial": term(0, 0)}, rows(Role.near))
    assert meter.means(accelerator) == {"rcgm": 0.0}


def test_means_come_in_one_order_whatever_the_terms_order(accelerator):
    meter = WindowMeter()
    meter.add(0, {name: term(number, 1) for number, name in reversed([*enumerate(NAMES)])}, rows(Role.near))
    assert [*meter.means(accelerator).items()] == [(name, float(number)) for number, name in enumerate(NAMES)]


def test_repeated_pass_over_a_micro_batch_counts_once(accelerator):
    meter = WindowMeter()
    for total in (100, 4):
        meter.add(0, {"rcgm": term(total, 2)}, rows(Role.near))
    assert meter.means(accelerator) == {"rcgm": 2.0}


def test_first_micro_batch_begins_a_new_window(accelerator):
    meter = WindowMeter()
    for micro_batch, total in ((0, 1), (1, 2), (0, 7)):
        meter.add(micro_batch, {"rcgm": term(total, 1)}, rows(Role.near))
    assert meter.means(accelerator) == {"rcgm": 7.0}
    assert len(meter.positions()) == 1


def test_positions_are_those_of_the_rows_by_micro_batch():
    meter = WindowMeter()
    meter.add(0, {}, rows(Role.twin, Role.near))
    meter.add(1, {}, rows(Role.one_step))
    first, second = meter.positions()
    assert first.roles == (Role.twin, Role.near)
    assert second.roles == (Role.one_step,)
    assert first.sign.tolist() == [-1, 1]
    assert torch.equal(first.r, first.t / 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_terms_that_are_not_finite_are_named(value):
    meter = WindowMeter()
    meter.add(0, {"rcgm": term(1, 1), "adversarial": term(value, 1)}, rows(Role.twin))
    meter.add(1, {"rcgm": term(2, 1)}, rows(Role.near))
    [(name, found)] = meter.not_finite().items()
    assert name == "adversarial"
    assert repr(found) == repr(value)
