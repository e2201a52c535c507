"""The places in the host that the plugin uses: declared, checked first, wrapped once."""

import ast
import json
import os
import runpy
import subprocess
import sys
import types
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from simpletuner_twinflow import HostVersionError, TwinFlowError
from simpletuner_twinflow._hooks import hook_entry_points, register_hooks
from simpletuner_twinflow.host import seams, versions
from simpletuner_twinflow.host.seams import Seam, Touch, changed, set_on, uses
from simpletuner_twinflow.host.settings import preflight
from tests.host import attached

GENERATOR = Path(__file__).parents[2] / "docs/generate_architecture.py"
PACKAGE = Path(seams.__file__).parent
OWN_PROCESSES = (PACKAGE / "settings/preflight.py", PACKAGE / "doctor.py")  # which train nothing
hooks = pytest.mark.parametrize(
    "entry", hook_entry_points(), ids=lambda entry: f"{entry.group}:{entry.value.split(':')[1]}"
)


class Base:
    def inherited(self):
        pass


class Trainer(Base):
    def __init__(self):
        self.distiller = None

    def step(self, batch):
        return batch


@pytest.fixture
def module():
    """A module as a host might have it."""
    made = types.ModuleType("hosts_module")
    made.Trainer = Trainer
    return made


@pytest.fixture(autouse=True)
def clean_record(monkeypatch):
    monkeypatch.setattr(seams, "broken", [])
    monkeypatch.setattr(seams, "lost", {})


@hooks
def test_every_seam_of_every_hook_is_in_the_installed_host(entry):
    hook = entry.load()
    assert hook.seams, "a hook must declare what it uses"
    problems = {seam.path: seam.problem(import_module(seam.module or entry.name)) for seam in hook.seams}
    assert not any(problems.values()), problems


def test_every_seam_of_the_early_check_is_in_the_installed_host():
    assert [seam.problem(import_module(seam.module)) for seam in preflight.SEAMS] == [None] * len(preflight.SEAMS)


def test_attaching_replaces_what_is_declared_and_nothing_else(tmp_path):
    environment = os.environ | {"SIMPLETUNER_TWINFLOW_DISABLED": "1"}
    found = tmp_path / "found.json"
    command = [sys.executable, "-W", "ignore", "-m", attached.__name__, str(found)]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    replaced = set(json.loads(found.read_text(encoding="utf-8")))
    declared = {
        f"{seam.module or module}: {seam.path}": seam.touch
        for module, hook in seams.all_hooks()
        for seam in hook.seams
        if seam.touch in (Touch.wrapped, Touch.replaced, Touch.given)
    }
    tables = {place.partition("[")[0] for place in replaced if "[" in place}
    assert {place for place in replaced if "[" not in place} | tables <= declared.keys()
    assert {place for place, touch in declared.items() if touch is Touch.wrapped} <= replaced


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_what_belongs_to_others_is_set_at_declared_seams_alone(path):
    """Attributes of others are set by `set_on` and `changed`, which ask the declarations; ours are named so."""
    if path in OWN_PROCESSES:
        return
    targets = [
        target
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete)
        for target in (node.targets if not isinstance(node, ast.AugAssign) else [node.target])
    ]
    flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    foreign = {
        ast.unparse(part)
        for part in flat
        if isinstance(part, ast.Attribute)
        and ast.unparse(part.value) not in ("self", "made", "collating")
        and not part.attr.startswith("twinflow_")
    }
    assert foreign == set()


def test_what_no_hook_declares_cannot_be_set():
    trainer, config = Trainer(), Namespace(twinflow_enabled=True)
    with pytest.raises(TwinFlowError, match=r"Trainer\.step is set, but no hook declares it"):
        set_on(trainer, "step", print)
    with pytest.raises(TwinFlowError, match="learning_rate is set, but no hook declares it"):
        set_on(config, "learning_rate", 1.0)
    set_on(trainer, "distiller", "ours")  # declared of the host's class of this name
    set_on(config, "lora_dropout", 0.0)
    assert (trainer.distiller, config.lora_dropout) == ("ours", 0.0)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_changed_for_a_block_is_as_before_after_it(fails):
    class ModelFoundation:
        def model_predict(self):
            return "class"

    model, config = ModelFoundation(), Namespace(twinflow_enabled=True)
    try:
        with changed(model, model_predict=lambda: "outer"), changed(config, twinflow_enabled=False):
            with changed(model, model_predict=lambda: "inner"):
                assert model.model_predict() == "inner"
            assert (model.model_predict(), config.twinflow_enabled) == ("outer", False)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert (model.model_predict(), config) == ("class", Namespace(twinflow_enabled=True))
    assert vars(model) == {}


def test_optional_hook_with_a_missing_seam_is_left_out_and_a_run_says_what_is_lost(module, caplog):
    touched = []

    def optional(module):
        touched.append("optional")

    def needed(module):
        touched.append("needed")

    uses(Seam("Trainer.leap"), lost="pictures are not sent")(optional)(module)
    uses(Seam("Trainer.step"))(needed)(module)
    assert touched == ["needed"]
    seams.refuse_broken_seams({})
    assert "TwinFlow goes on, but pictures are not sent: hosts_module.Trainer.leap is missing." in caplog.text


@hooks
def test_every_hook_has_been_applied_once_the_host_module_is_imported(entry):
    import_module(entry.name)
    assert (entry.name, entry.value.replace(":", ".")) in seams._attached


@pytest.mark.parametrize(
    ("seam", "problem"),
    [
        (Seam("Trainer.step", ("batch",)), None),
        (Seam("Trainer.distiller", touch=Touch.on_run), None),
        (Seam("Trainer.distiller"), "hosts_module.Trainer.distiller is missing"),
        (Seam("Trainer.leap"), "hosts_module.Trainer.leap is missing"),
        (Seam("Runner.step"), "hosts_module.Runner.step is missing"),
        (Seam("Trainer.inherited"), "hosts_module.Trainer.inherited is missing"),
        (Seam("Trainer.step", ("batch", "sigmas")), "hosts_module.Trainer.step lacks the parameter sigmas"),
    ],
    ids=["as expected", "attribute", "attribute cannot be wrapped", "method", "class", "inherited only", "parameter"],
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
    monkeypatch.setattr(seams, "all_hooks", lambda *_: [(module.__name__, good), (module.__name__, bad)])
    good(module)
    assert touched == []


def test_run_that_asks_for_twinflow_is_refused_after_a_missing_seam(module):
    uses(Seam("Trainer.leap"))(lambda module: None)(module)
    with pytest.raises(HostVersionError, match=r"Trainer\.leap is missing") as refusal:
        seams.refuse_broken_seams({})
    for words in (versions.host_version(), str(versions.supported_range()), "twinflow_enabled"):
        assert words in str(refusal.value)


def test_host_outside_the_supported_range_is_refused_by_version(monkeypatch):
    monkeypatch.setattr(versions, "host_version", lambda: "9.9.9")
    with pytest.raises(HostVersionError, match=r"9\.9\.9.*<4\.11,>=4\.9\.3"):
        seams.refuse_broken_seams({})


def test_installed_host_is_accepted():
    seams.refuse_broken_seams({})


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


def test_page_lists_the_seams_as_they_are_declared():
    page = runpy.run_path(str(GENERATOR))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), "run: python docs/generate_architecture.py"


def test_needed_seam_in_another_module_is_looked_for_at_start_up(monkeypatch):
    hook = uses(Seam("load"), Seam("nothing_there", module="tomllib"))(lambda module: None)
    monkeypatch.setattr(seams, "all_hooks", lambda *_: [("json", hook)])
    with pytest.raises(HostVersionError, match=r"tomllib\.nothing_there is missing"):
        seams.refuse_broken_seams({})


def test_host_module_that_is_gone_is_named_at_start_up(monkeypatch):
    monkeypatch.setattr(seams, "all_hooks", lambda *_: [("simpletuner.gone", uses(Seam("x"))(lambda module: None))])
    with pytest.raises(HostVersionError, match=r"simpletuner\.gone is missing"):
        seams.refuse_broken_seams({})


def test_optional_hook_that_lacks_a_seam_elsewhere_lets_every_call_through(module, monkeypatch, caplog):
    def attach(module):
        seams.wrap(module, "Trainer.step", lambda wrapped, trainer, args, kwargs: "ours")

    hook = uses(Seam("Trainer.step"), Seam("gone", module="tomllib"), lost="steps are not counted")(attach)
    monkeypatch.setattr(module, "Trainer", type("Trainer", (), {"step": lambda self, batch: batch}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    hook(module)
    assert module.Trainer().step("theirs") == "ours"
    monkeypatch.setattr(seams, "all_hooks", lambda *_: [(module.__name__, hook)])
    seams.refuse_broken_seams({})
    assert module.Trainer().step("theirs") == "theirs"
    assert "TwinFlow goes on, but steps are not counted: tomllib.gone is missing." in caplog.text


@pytest.fixture
def partly_needed(module, monkeypatch):
    """A hook that full fine-tunes alone need, with a seam that the host lacks."""
    hook = uses(Seam("Trainer.leap"), lost="nothing leaps", needed_by=lambda config: config["model_type"] == "full")(
        lambda module: None
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(seams, "all_hooks", lambda *_: [(module.__name__, hook)])
    hook(module)


@pytest.mark.usefixtures("partly_needed")
def test_run_that_needs_a_hook_which_others_do_not_is_refused_without_it():
    with pytest.raises(
        HostVersionError, match=r"with this configuration: nothing leaps \(.*Trainer\.leap is missing\)"
    ):
        seams.refuse_broken_seams({"model_type": "full"})


@pytest.mark.usefixtures("partly_needed")
def test_run_that_does_not_need_a_hook_is_told_nothing_of_it(caplog):
    seams.refuse_broken_seams({"model_type": "lora"})
    assert caplog.records == []


def test_what_is_declared_of_one_class_cannot_be_set_on_another():
    with pytest.raises(TwinFlowError, match=r"Base\.distiller is set, but no hook declares it"):
        set_on(Base(), "distiller", "ours")


def test_nothing_stays_changed_when_a_part_of_the_change_is_refused():
    config = Namespace(twinflow_enabled=True, lora_dropout=0.1)
    with pytest.raises(TwinFlowError, match="learning_rate"), changed(config, lora_dropout=0.0, learning_rate=1.0):
        pass
    assert config.lora_dropout == 0.1


def test_hook_that_is_attached_answers_for_itself_and_loads_no_other(module, monkeypatch):
    """Hooks are attached in runs without TwinFlow too, where what the others import is not needed."""

    def attach(module):
        set_on(module, "table", "ours")
        with pytest.raises(TwinFlowError, match="distiller is set, but no hook declares it"):
            set_on(Trainer(), "distiller", "ours")  # declared by another hook

    monkeypatch.setattr(module, "table", "theirs", raising=False)
    hook = uses(Seam("table", touch=Touch.replaced), lost="")(attach)
    monkeypatch.setattr(seams, "all_hooks", lambda *_: pytest.fail("the other hooks are loaded"))
    hook(module)
    assert module.table == "ours"
