"""Put small faults into the method and the sampler, one at a time, and see whether the tests of that room fail.

    make mutants                          # a sample, drawn at random by a seed
    make mutants ARGS="--only roles.py"   # all mutants whose name has that in it

Each mutant runs in a fork of this process, which has torch and diffusers imported already: first the tests named like
the module, then the room's others, up to the first that fails. mutmut 3 leaves out decorated functions (`no_grad`,
properties) and what stands outside of functions, and cosmic-ray writes into the working tree and imports torch anew for
each mutant; hence this file.
"""

import argparse
import ast
import contextlib
import importlib
import io
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType

import pytest
import torch

from testbed.equivalent_mutants import EQUIVALENT
from testbed.mutations import Mutation, mutations

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "simpletuner_twinflow"
ROOMS = ("method", "sampling")
# Minutes, or processes of their own; each still tests the module of its name.
SLOW = ("test_cost.py", "test_divergence.py", "test_guidance_law.py", "test_sharding.py")
# The ranges of the objective's keys are checked where all keys are.
ALSO = {"method/settings.py": ("tests/test_options.py", "tests/test_options_properties.py")}
# The parent has imported some plugins already, which pytest would otherwise report as an error.
PYTEST = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutant:
    """A mutation of one module."""

    module: str  # relative to the package
    mutation: Mutation

    @property
    def name(self) -> str:
        return f"{self.module}: {self.mutation.name}"


class FirstFailure:
    """A plugin of pytest that remembers the first test, or file, that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.name = self.name or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.name = self.name or f"import of {report.nodeid}"


def all_mutants() -> list[Mutant]:
    """Of every module of the rooms."""
    return [
        Mutant(str(path.relative_to(PACKAGE)), mutation)
        for room in ROOMS
        for path in sorted((PACKAGE / room).glob("*.py"))
        for mutation in mutations(ast.parse(path.read_text(encoding="utf-8")))
    ]


def stages(module: str) -> list[list[str]]:
    """Arguments of pytest: the tests named like the module, then the others of its room."""
    room, stem = Path(module).parent.name, Path(module).stem
    tests = sorted((ROOT / "tests" / room).glob("test_*.py"))
    own = [str(path) for path in tests if path.stem == f"test_{stem}" or path.stem.startswith(f"test_{stem}_")]
    own += [str(ROOT / name) for name in ALSO.get(module, ())]
    others = [str(path) for path in tests if str(path) not in own and path.name not in SLOW]
    return [own, [*others, str(ROOT / "tests/test_reference.py")]] if own else [others]


def _test(module: str, code: CodeType | None, answer: Connection) -> None:
    """In the fork: run the tests with this code in the module's place, and send the test that failed, or ""."""
    original = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        return code if code is not None and loader.path == str(PACKAGE / module) else original(loader, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for stage in stages(module):
            failure = FirstFailure()
            status = pytest.main([*stage, *PYTEST], plugins=[failure])
            if status != pytest.ExitCode.OK:
                break
    loaded = [name for name in sys.modules if name.split(".")[0] in ("diffusers", "transformers")]
    answer.send(("" if status == pytest.ExitCode.OK else failure.name or status.name, loaded))


def verdict(module: str, code: CodeType | None, seconds: float) -> tuple[str, list[str]]:
    """The test that failed, "" if none, and what was imported; "time" where it took longer than that."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_test, args=(module, code, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return "time", []
        failed, loaded = receiver.recv()
        return failed, loaded
    except EOFError:
        raise RuntimeError(f"the tests of {module} ended without an answer; what they wrote is above") from None
    finally:
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description="Do the tests notice small faults?")
    parser.add_argument("--sample", type=int, default=210, help="how many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=300, help="a mutant's limit; one that takes longer is noticed")
    parser.add_argument("--only", nargs="+", default=[], help="all mutants with one of these in their name, instead")
    options = parser.parse_args()

    every = all_mutants()
    if strangers := EQUIVALENT.keys() - {mutant.name for mutant in every}:
        parser.error(f"testbed/equivalent_mutants.py lists what is no mutant any more: {sorted(strangers)}")
    chosen = random.Random(options.seed).sample(every, min(options.sample, len(every)))
    if options.only:
        chosen = [mutant for mutant in every if any(part in mutant.name for part in options.only)]
    trees = {name: ast.parse((PACKAGE / name).read_text(encoding="utf-8")) for name in {it.module for it in every}}

    for room in ROOMS:  # without a fault the tests must pass; what they import is imported here once
        began = time.monotonic()
        failed, loaded = verdict(f"{room}/__init__.py", None, 10 * options.seconds)
        if failed:
            parser.error(f"the tests of {room} fail without a fault: {failed}")
        print(f"{room}: all tests pass in {time.monotonic() - began:.0f} s", flush=True)
        for name in loaded:
            importlib.import_module(name)

    counts: Counter[str] = Counter()
    survivors: list[Mutant] = []
    for number, mutant in enumerate(chosen, start=1):
        began = time.monotonic()
        code = mutant.mutation.compiled(trees[mutant.module], str(PACKAGE / mutant.module))
        failed, _ = verdict(mutant.module, code, options.seconds)
        kind = "noticed" if failed else "equivalent" if mutant.name in EQUIVALENT else "SURVIVED"
        counts[kind] += 1
        if kind == "SURVIVED":
            survivors.append(mutant)
        seconds = time.monotonic() - began
        print(f"{number}/{len(chosen)} {kind} {seconds:.0f} s  {mutant.name}  [{failed}]", flush=True)

    different = len(chosen) - counts["equivalent"]
    print(f"\n{len(every)} mutants there are, {len(chosen)} were tried: {dict(counts)}.")
    print(f"Noticed: {counts['noticed']} of {different} that are not equivalent.")
    for mutant in survivors:
        print(f"  line {mutant.mutation.line} of {mutant.name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
