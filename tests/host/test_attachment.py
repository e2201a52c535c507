"""Attaching and detaching in every order: in processes of their own, with the installed host."""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from simpletuner_twinflow.host.seams import Touch, all_hooks
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions
from tests.host import attach_orders

pytestmark = pytest.mark.host  # six processes that import all of the host: two minutes

START_UP = "rest detach attach"  # attached by the start-up file, as every run is
ORDERS = {
    "start-up file": START_UP,
    "plugin first": "attach attach start rest detach detach attach",
    "host first": "start rest attach attach detach attach detach",
    "attached between imports": "start attach rest detach attach",
    "detached between imports": "attach start detach rest attach detach",
    "detached before any import": "attach detach start rest attach",
}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A function that gives what stands in the host after each step of an order."""

    @cache
    def take(name):
        path, steps = tmp_path_factory.mktemp("order") / "states.json", ORDERS[name]
        environment = os.environ | {"SIMPLETUNER_TWINFLOW_DISABLED": "0" if steps == START_UP else "1"}
        command = [sys.executable, "-W", "ignore", "-m", attach_orders.__name__, str(path), *steps.split()]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(path.read_text(encoding="utf-8"))

    return take


@pytest.fixture(params=ORDERS)
def order(request, taken):
    """The steps of an order, each with whether the plugin is attached after it."""
    attached, steps = ORDERS[request.param] == START_UP, []
    for state in taken(request.param):
        attached = {"attach": True, "detach": False}.get(state["step"], attached)
        steps.append((attached, state))
    return steps


def declared(imported):
    """How many hooks wrap a place, as they declare it: each wraps it once."""
    return Counter(
        f"{module}: {seam.path}"
        for module, hook in all_hooks()
        for seam in hook.seams
        if module in imported and seam.touch is Touch.wrapped
    )


def test_each_hook_wraps_its_places_once_while_the_plugin_is_attached(order):
    states = [state for attached, state in order if attached and state["imported"]]
    assert states
    for state in states:
        wrapped = {place: state["layers"].get(place, 0) for place in declared(state["imported"])}
        assert wrapped == declared(state["imported"]), state["step"]


def test_detached_host_has_its_own_objects_back_and_holds_nothing_of_ours(order):
    states = [state for attached, state in order if not attached]
    assert states
    for state in states:
        assert (state["layers"], state["ours"], state["others"]) == ({}, [], []), state["step"]


def test_parser_takes_our_keys_while_the_plugin_is_attached_and_the_hosts_own_after(order):
    ours = {PREFIX + name for name in TwinFlowOptions.names()}
    own = [{*state["keys"]} for attached, state in order if not attached and state["keys"]]
    assert own
    assert all(keys == own[0] and keys < ours for keys in own)
    attached = [{*state["keys"]} for attached, state in order if attached and state["imported"]]
    assert attached == [ours] * len(attached)


@pytest.mark.parametrize("name", ORDERS)
def test_order_makes_no_difference_to_what_an_attached_host_holds(name, taken):
    modules = {module for module, _ in all_hooks()}
    by_start_up = taken("start-up file")[0]["ours"]
    whole = [state["ours"] for state in taken(name) if {*state["imported"]} == modules and state["ours"]]
    assert whole
    assert whole == [by_start_up] * len(whole)
