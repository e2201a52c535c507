"""The places in the host that the plugin uses: declared, checked first, wrapped once."""

import types
from importlib import import_module

import pytest

from simpletuner_twinflow import HostVersionError
from simpletuner_twinflow._hooks import hook_entry_points, register_hooks
from simpletuner_twinflow.host import seams, versions
from simpletuner_twinflow.host.seams import Seam, uses


@pytest.fixture
def module():
    """A module as a host might have it."""
    made = types.ModuleType("hosts_module")
    exec(
        "class Base:\n  def inherited(self): pass\nclass Trainer(Base):\n  def step(self, batch): return batch\n",
        vars(made),
    )
    return made


@pytest.fixture(autouse=True)
def clean_record(monkeypatch):
    monkeypatch.setattr(seams, "broken", [])


@pytest.mark.parametrize("entry", hook_entry_points(), ids=lambda entry: f"{entry.group}:{entry.value.split(':')[1]}")
def test_every_seam_of_every_hook_is_in_the_installed_host(entry):
    host_module = import_module(entry.name)
    hook = entry.load()
    assert hook.seams, "a hook must declare what it uses"
    assert [seam.problem(host_module) for seam in hook.seams] == [None] * len(hook.seams)


@pytest.mark.parametrize("entry", hook_entry_points(), ids=lambda entry: f"{entry.group}:{entry.value.split(':')[1]}")
def test_every_hook_has_been_applied_once_the_host_module_is_imported(entry):
    import_module(entry.name)
    assert (entry.name, entry.value.split(":")[1]) in seams._attached


@pytest.mark.parametrize(
    ("seam", "problem"),
    [
        (Seam("Trainer.step", ("batch",)), None),
        (Seam("Trainer.leap"), "hosts_module.Trainer.leap is missing"),
        (Seam("Runner.step"), "hosts_module.Runner.step is missing"),
        (Seam("Trainer.inherited"), "hosts_module.Trainer.inherited is missing"),
        (Seam("Trainer.step", ("batch", "sigmas")), "hosts_module.Trainer.step lacks the parameter sigmas"),
    ],
    ids=["as expected", "method", "class", "inherited only", "parameter"],
)
def test_seam_says_what_is_wrong_with_it(seam, problem, module):
    assert seam.problem(module) == problem


def test_hook_with_a_missing_seam_touches_nothing(module):
    touched = []
    uses(Seam("Trainer.step"), Seam("Trainer.leap"))(touched.append)(module)
    assert touched == []


def test_run_without_twinflow_is_warned_once_of_a_missing_seam(module, caplog):
    for _ in range(2):
        uses(Seam("Trainer.leap"))(print)(module)
    seams.warn_of_broken_seams()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.count("hosts_module.Trainer.leap is missing") == 1


def test_run_without_twinflow_on_a_supported_host_is_not_warned(caplog):
    seams.warn_of_broken_seams()
    assert caplog.records == []


def test_hooks_of_one_module_are_applied_all_or_none(module, monkeypatch):
    touched = []
    good, bad = uses(Seam("Trainer.step"))(lambda module: touched.append("good")), uses(Seam("Trainer.leap"))(print)
    entries = [types.SimpleNamespace(name=module.__name__, load=lambda hook=hook: hook) for hook in (good, bad)]
    monkeypatch.setattr(seams, "hook_entry_points", lambda: entries)
    good(module)
    assert touched == []


def test_run_that_asks_for_twinflow_is_refused_after_a_missing_seam(module):
    uses(Seam("Trainer.leap"))(lambda module: None)(module)
    with pytest.raises(HostVersionError, match=r"Trainer\.leap is missing") as refusal:
        seams.refuse_broken_seams()
    for words in (versions.host_version(), str(versions.supported_range()), "twinflow_enabled"):
        assert words in str(refusal.value)


def test_host_outside_the_supported_range_is_refused_by_version(monkeypatch):
    monkeypatch.setattr(versions, "host_version", lambda: "9.9.9")
    with pytest.raises(HostVersionError, match=r"9\.9\.9.*<4\.11,>=4\.10"):
        seams.refuse_broken_seams()


def test_installed_host_is_accepted():
    seams.refuse_broken_seams()


def test_hook_is_applied_once_to_a_module(module):
    touched = []
    hook = uses(Seam("Trainer.step"))(touched.append)
    hook(module)
    hook(module)
    assert touched == [module]


def test_registering_the_hooks_again_wraps_nothing_twice():
    from simpletuner.helpers.training.trainer import Trainer

    before = vars(Trainer)["_compute_model_prediction_loss"]
    register_hooks()
    assert vars(Trainer)["_compute_model_prediction_loss"] is before
    assert not hasattr(before.__wrapped__, "__wrapped__")
