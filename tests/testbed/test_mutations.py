"""The faults that `make mutants` puts into the code are the ones that are meant, one at a time."""

import ast

import pytest

from testbed.equivalent_mutants import EQUIVALENT
from testbed.mutants import PACKAGE, all_mutants, stages
from testbed.mutations import mutations


def names(source):
    return [mutation.name for mutation in mutations(ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("a < b", ["a < b -> a <= b"]),
        ("low <= a < high", ["low <= a < high -> low < a < high", "low <= a < high -> low <= a <= high"]),
        ("a in b", ["a in b -> a not in b"]),
        ("a - b", ["a - b -> a + b"]),
        ("a**b", ["a ** b -> a * b"]),
        ("a | b", []),
        ("a and b", ["a and b -> a or b"]),
        ("not a", ["not a -> a"]),
        ("-a", ["-a -> a"]),
        ("f(True)", ["True -> False"]),
        ("f(2, 'two')", ["2 -> 3"]),
        ("x.detach()", ["x.detach() -> x"]),
        ("min(a, b)", ["min(a, b) -> max(a, b)"]),
        ("a.maximum(b)", ["a.maximum(b) -> a.minimum(b)"]),
        ("a if b else c", ["a if b else c -> a if not b else c"]),
        ("if a:\n    pass", ["if a -> if not a"]),
        ("x: Literal[1] = y", []),
        ("raise Error(1 + 1)", []),
        ("f'{1 + 1}'", []),
    ],
)
def test_each_kind_of_code_has_its_faults(source, faults):
    assert names(source) == [f"module: {fault}" for fault in faults]


def test_a_fault_is_named_by_its_function_and_by_number_where_it_comes_again():
    source = "class A:\n    @f(1)\n    def b(self, c: 'int' = 1) -> 'Literal[2]':\n        return c + 1\n"
    assert names(source) == [
        "A.b: 1 -> 2",
        "A.b: return c + 1 -> return None",
        "A.b: c + 1 -> c - 1",
        "A.b: 1 -> 2 #2",
    ]


def test_the_compiled_module_has_one_fault_and_the_tree_none():
    tree = ast.parse("def f(a, b):\n    return a + b - 1\n")
    results = []
    for mutation in mutations(tree):
        module = {}
        exec(mutation.compiled(tree, "f.py"), module)
        results.append(module["f"](2, 5))
    assert results == [None, 8, -4, 5]  # as it stands: 6
    assert ast.unparse(tree) == "def f(a, b):\n    return a + b - 1"


def test_all_mutants_have_names_of_their_own_and_those_that_change_nothing_are_among_them():
    found = [mutant.name for mutant in all_mutants()]
    assert len(set(found)) == len(found) > 1000
    assert EQUIVALENT.keys() <= set(found)
    assert all(len(reason) > 20 for reason in EQUIVALENT.values())


def test_the_tests_of_a_modules_name_come_first_and_none_that_takes_minutes_but_these():
    own, others = ([path.rsplit("/", 1)[1] for path in stage] for stage in stages("method/cost.py"))
    assert own == ["test_cost.py"]
    assert "test_losses.py" in others
    assert others[-1] == "test_reference.py"
    assert not {"test_cost.py", "test_guidance_law.py", "test_schedule.py"} & set(others)
    assert "test_schedule_properties.py" in stages("sampling/schedule.py")[0][1]
    assert all((PACKAGE / mutant.module).is_file() for mutant in all_mutants())
