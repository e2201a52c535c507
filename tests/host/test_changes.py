"""What is put into the host comes out again, also where others have patched or copied it."""

import sys
import types

import pytest

from simpletuner_twinflow.host import changes, seams
from simpletuner_twinflow.host.seams import Seam, uses, wrap


def step(batch):
    return f"theirs {batch}"


step.__module__ = "simpletuner.probe"


@pytest.fixture
def module(monkeypatch):
    """A module as the host might have it, with a function and a class that inherits its method."""
    made = types.ModuleType("simpletuner.probe")
    made.step = step
    made.Base = type("Base", (), {"leap": lambda self: "base"})
    made.Trainer = type("Trainer", (made.Base,), {})
    monkeypatch.setitem(sys.modules, made.__name__, made)
    for name in ("_changes", "_covered", "_callbacks"):
        monkeypatch.setattr(changes, name, [])
    monkeypatch.setattr(changes, "_attached", True)
    return made


@pytest.fixture
def hook(module):
    """A hook that wraps the function; the caller attaches it."""

    def attach(module):
        wrap(module, "step", lambda wrapped, instance, args, kwargs: f"ours {wrapped(*args, **kwargs)}")

    made = uses(Seam("step"))(attach)
    yield made
    seams._attached.discard((module.__name__, f"{attach.__module__}.{attach.__qualname__}"))


def again(hook, module):
    """Detached, and attached once more."""
    left = changes.undo()
    seams._attached.discard((module.__name__, f"{hook.attach.__module__}.{hook.attach.__qualname__}"))
    hook(module)
    return left


def test_several_wrappers_of_one_place_leave_the_function_itself(module):
    for _ in range(3):
        changes.put(module, "step", lambda batch: "ours")
    assert changes.undo() == []
    assert vars(module)["step"] is step


def test_attribute_that_a_class_inherited_is_taken_away_again(module):
    changes.put(module.Trainer, "leap", lambda self: "ours")
    assert module.Trainer().leap() == "ours"
    changes.undo()
    assert "leap" not in vars(module.Trainer)
    assert module.Trainer().leap() == "base"


def test_callback_is_called_once(module):
    called = []
    changes.when_undone(lambda: called.append(True))
    changes.undo()
    changes.undo()
    assert called == [True]


def test_patch_of_somebody_elses_stays_and_ours_below_it_is_never_laid_twice(module, hook):
    hook(module)
    ours = module.step
    module.step = theirs = lambda batch: f"patched {ours(batch)}"
    assert again(hook, module) == ["simpletuner.probe.step"]
    assert module.step is theirs
    assert module.step("x") == "patched ours theirs x"  # once
    module.step = ours  # they have taken theirs out
    assert changes.undo() == []
    assert module.step is step


def test_wrapper_that_cannot_be_taken_out_lets_calls_through_while_detached(module, hook):
    hook(module)
    held = module.step
    changes.undo()
    changes.set_attached(False)
    assert held("x") == "theirs x"


def test_hook_does_nothing_while_detached(module, hook):
    changes.set_attached(False)
    hook(module)
    assert module.step is step


def test_copies_in_modules_and_tables_follow(module, hook, monkeypatch):
    importer, stranger = types.ModuleType("simpletuner.probe.late"), types.ModuleType("simpletuner_probe")
    for each in (importer, stranger):
        each.renamed, each.table = step, {"step": step, "other": print}
        monkeypatch.setitem(sys.modules, each.__name__, each)
    table = importer.table
    hook(module)
    changes.spread()
    assert importer.renamed is importer.table["step"] is module.step is not step
    changes.undo()
    assert importer.renamed is importer.table["step"] is module.step is step
    assert importer.table is table
    assert stranger.renamed is stranger.table["step"] is step
    assert table["other"] is print


def test_copies_of_what_a_module_has_from_elsewhere_stay(module, monkeypatch):
    importer = types.ModuleType("simpletuner.probe.late")
    monkeypatch.setitem(sys.modules, importer.__name__, importer)
    module.Queue = importer.Queue = types.SimpleNamespace
    changes.put(module, "Queue", lambda: None)
    changes.spread()
    assert importer.Queue is types.SimpleNamespace


def test_class_of_the_hosts_that_was_put_in_a_place_is_not_taken_for_ours(module):
    """As in validation, where the scheduler's name means the host's own class again."""

    class Ours:
        __module__ = "simpletuner_twinflow.sampling"

    own = module.Trainer
    changes.put(module, "HostTrainer", own)
    changes.put(module, "Trainer", Ours)
    importer = types.ModuleType("simpletuner.probe.late")
    importer.Trainer, importer.kept = Ours, own
    sys.modules[importer.__name__] = importer
    try:
        changes.put(importer, "Trainer", own)
        assert changes.undo() == []
    finally:
        del sys.modules[importer.__name__]
    assert module.Trainer is importer.Trainer is importer.kept is own
    assert not hasattr(module, "HostTrainer")
