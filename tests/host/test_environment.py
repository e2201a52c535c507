"""What a start would meet in an environment, found before it."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from simpletuner_twinflow.cli import doctor as command
from simpletuner_twinflow.cli import main
from simpletuner_twinflow.host import environment
from simpletuner_twinflow.host.environment import Lacking
from tests.host.settings.configs import SEED
from tests.host.test_doctor import run

BROKEN = "raise RuntimeError('compiled with different CUDA versions.\\nPlease install another')\n"


@pytest.fixture
def broken_torchaudio(tmp_path):
    """A folder to be put first on the path of modules, with a torchaudio that fails as the mismatched one does."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/torchaudio.py").write_text(BROKEN, encoding="utf-8")
    return str(tmp_path / "first")


def test_this_environment_is_sound():
    came_to = []
    assert environment.failing_imports(came_to.append) == {}
    assert came_to == ["torch", "torchvision", "torchaudio", "rest"]
    assert environment.lacking_in_transformers() == []
    assert environment.outside_ranges() == []


def test_doctor_names_a_package_that_the_host_could_not_import(broken_torchaudio, tmp_path):
    (tmp_path / "some.json").write_text(json.dumps(SEED), encoding="utf-8")
    code, said, complained, _ = run("some.json", folder=tmp_path, PYTHONPATH=broken_torchaudio)
    assert (code, complained) == (1, "")
    [line] = [line for line in said.splitlines() if line.startswith("torchaudio ")]
    assert "RuntimeError: compiled with different CUDA versions. Please install another. Way out: pip install" in line
    assert said.splitlines()[-1] == "1 problem: a run would stop at its start."


def test_a_real_start_is_tried_and_its_error_is_one_line(broken_torchaudio, monkeypatch):
    assert environment.start_error() is None
    monkeypatch.setenv("PYTHONPATH", broken_torchaudio)
    assert re.fullmatch(r"\w+Error: .+", environment.start_error())


def test_without_torch_that_alone_is_said(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n", encoding="utf-8")
    code, said, complained, _ = run(folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (code, complained) == (1, "")
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["torch", "1"]
    assert "OSError: libcudart.so.13: cannot open. Way out" in said


SEGFAULT = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
PRINTS = "import os\nprint('hello')\nos.write(1, b'hello from a library')\n"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (SEGFAULT, "signal 11 (SIGSEGV)"),
        *((f"os._exit({code})\n", f"exit code {code}") for code in range(3)),
    ],
)
def test_import_that_ends_the_process_is_named_with_its_end(ends, said, tmp_path):
    (tmp_path / "torchvision.py").write_text(PRINTS + ends, encoding="utf-8")
    code, report, complained, _ = run("--json", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (code, complained.count("hello from a library")) == (1, 1)
    found = json.loads(report)
    [problem] = found["problems"]
    assert not found["ok"]
    assert problem.startswith("torchvision ")
    assert f"the process was ended by {said} in the import. Way out: pip install" in problem


def test_import_that_hangs_is_stopped_and_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(1000)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "LIMIT", 30)
    with pytest.raises(SystemExit, match="1"):
        main(["doctor"])
    assert "ended by the time limit of 30 s in the import. Way out: pip install torch==" in capsys.readouterr().out


@pytest.mark.parametrize(("at", "though"), [("rest", ", though torch, torchvision, torchaudio can"), ("", ". Way out")])
def test_examination_that_is_ended_by_no_import_is_a_problem_too(at, though):
    said = environment.what_ended(environment.end_in_words(-9), at)
    assert said.startswith(f"The examination was ended by signal 9 (SIGKILL){though}")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("KeyError('libcuda')", "KeyError: 'libcuda'"),
        ("SystemExit('no GPU')", "SystemExit: no GPU"),
        ("type('PanicException', (BaseException,), {})('a lock')", "torchaudio.PanicException: a lock"),
        ("type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "torchaudio.E: <exception str() failed>"),
    ],
)
def test_whatever_an_import_raises_and_prints_the_report_is_alone_on_standard_output(raised, said, tmp_path):
    (tmp_path / "torchaudio.py").write_text(f"{PRINTS}raise {raised}\n", encoding="utf-8")
    code, report, complained, _ = run("--json", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert sorted(complained.split("hello")) == ["", "\n", " from a library"]
    [problem] = json.loads(report)["problems"]
    assert problem.startswith("torchaudio ")
    assert f"does at its start: {said}. Way out" in problem


def test_start_that_is_ended_by_a_signal_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(SEGFAULT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert environment.start_error() == "signal 11 (SIGSEGV)"


def test_name_that_the_installed_transformers_lacks_is_found_in_the_sources(monkeypatch):
    known = environment.definitions
    module, name = "transformers.models.qwen3_vl.modeling_qwen3_vl", "Qwen3VLCausalLMOutputWithPast"

    def without(asked):
        found = known(asked)
        return {key: one for key, one in found.items() if key != name} if asked == module else found

    assert name in known(module)
    monkeypatch.setattr(environment, "definitions", without)
    [found] = environment.lacking_in_transformers()
    assert (found.module, found.name) == (module, name)
    assert found.file.startswith("mageflow/")


@pytest.mark.parametrize(
    ("failing", "ended", "problems", "notes"),
    [
        (
            {},
            "ImportError: cannot import name 'Y'",
            ["Its start ends with \"ImportError: cannot import name 'Y'\""],
            [],
        ),
        ({}, None, [], ["SimpleTuner can be imported all the same."]),
        ({"torchaudio": "torchaudio fails."}, "not asked", ["torchaudio fails.", "transformers<5.21"], []),
    ],
)
def test_lacking_name_is_a_problem_where_a_start_ends_by_it(failing, ended, problems, notes, monkeypatch):
    monkeypatch.setattr(environment, "lacking_in_transformers", lambda: [Lacking("x.py", "transformers.x", "Y")])
    monkeypatch.setattr(environment, "outside_ranges", list)
    monkeypatch.setattr(environment, "start_error", lambda: ended)
    found = environment.problems_and_notes(failing)
    for lines, words in zip(found, (problems, notes), strict=True):
        assert len(lines) == len(words)
        assert all(word in line for word, line in zip(words, lines, strict=True))
    assert "not asked" not in str(found)


@pytest.mark.parametrize(
    ("name", "installed", "line"),
    [
        ("peft", "0.1", r"SimpleTuner asks for peft>=[\d.]+: 0\.1 is installed\."),
        ("torch", "2.0.1+cpu", r"SimpleTuner asks for torch>=[\d.]+.*: 2\.0\.1\+cpu is installed\."),
        ("safetensors", None, r"SimpleTuner asks for safetensors>=[\d.]+: it is not installed\."),
    ],
)
def test_what_is_outside_the_hosts_own_ranges_is_noted(name, installed, line, monkeypatch):
    def version_of(asked):
        if asked == name and installed is None:
            raise PackageNotFoundError(asked)
        return installed if asked == name else version(asked)

    monkeypatch.setattr(environment, "version", version_of)
    [found] = environment.outside_ranges()
    assert re.fullmatch(line, found)


def test_versions_of_the_way_out_are_those_that_the_tests_run_with():
    installed = [f"{name}=={version(name).partition('+')[0]}" for name in environment.BUILT_TOGETHER]
    assert environment.SEEN_TOGETHER.split() == installed


def test_looking_does_not_import_the_host():
    code = (
        "import sys; from simpletuner_twinflow.host import environment as e; e.lacking_in_transformers(); "
        "e.outside_ranges(); print({'simpletuner', 'transformers', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
