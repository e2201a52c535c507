"""Small faults that can be put into a module, one at a time: what a test suite has to notice."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
# `|` is left alone: it mostly joins types or mappings, where any other sign fails at the import.
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
FUNCTIONS = {"min": "max", "minimum": "maximum", "amax": "amin", "floor": "ceil", "cos": "sin", "any": "all"}
FUNCTIONS |= {other: name for name, other in FUNCTIONS.items()}
# Calls of these are replaced by what they are called on.
METHODS = {
    "clamp",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "float",
    "sqrt",
    "square",
    "strip",
    "unsqueeze",
}
# Not computed with: types, messages, and what would fail at the import.
LEFT_OUT_FIELDS = {"annotation", "returns", "decorator_list", "bases", "type_params"}
LEFT_OUT = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.TypeAlias)


@dataclass(frozen=True)
class Mutation:
    """One fault. Its name says where it is without line numbers, so that it stays when the file moves around it."""

    name: str  # "Class.function: before -> after"; "#2" for the second of that name
    kind: str  # comparison, arithmetic, boolean, constant, return, branch or call
    line: int
    path: tuple[tuple[str, int | None], ...]  # from the module to the node, by field and place
    after: ast.AST

    def compiled(self, tree: ast.Module, filename: str) -> CodeType:
        """The module of this tree with the fault; the tree itself stays."""
        changed = copy.deepcopy(tree)
        parent: ast.AST = changed
        for field, place in self.path[:-1]:
            parent = _child(parent, field, place)
        field, place = self.path[-1]
        after = ast.copy_location(copy.deepcopy(self.after), _child(parent, field, place))
        if place is None:
            setattr(parent, field, after)
        else:
            getattr(parent, field)[place] = after
        return compile(ast.fix_missing_locations(changed), filename, "exec")


def mutations(tree: ast.Module) -> list[Mutation]:
    """Every fault that can be put into a module, in the order of the source."""
    found: list[Mutation] = []
    seen: dict[str, int] = {}
    for node, path, scope in _nodes(tree, (), ""):
        for kind, after in _faults(node):
            name = f"{scope or 'module'}: {_text(node)} -> {_text(after)}"
            seen[name] = seen.get(name, 0) + 1
            numbered = name if seen[name] == 1 else f"{name} #{seen[name]}"
            found.append(Mutation(numbered, kind, getattr(node, "lineno", 0), path, after))
    return found


def _nodes(
    node: ast.AST, path: tuple[tuple[str, int | None], ...], scope: str
) -> Iterator[tuple[ast.AST, tuple[tuple[str, int | None], ...], str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}" if scope else node.name
    for field, value in ast.iter_fields(node):
        if field in LEFT_OUT_FIELDS:
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, LEFT_OUT):
                below = (*path, (field, place))
                yield child, below, scope
                yield from _nodes(child, below, scope)


def _faults(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                after = copy.deepcopy(node)
                after.ops[place] = COMPARISONS[type(op)]()
                yield "comparison", after
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield "arithmetic", ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        case ast.BoolOp():
            yield "boolean", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "boolean" if isinstance(node.op, ast.Not) else "arithmetic", node.operand
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield "constant", ast.Constant(node.value + 1)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return", ast.Return(ast.Constant(None))
        case ast.IfExp():
            yield "branch", ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.If():
            yield "branch", ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in METHODS:
            yield "call", value
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in FUNCTIONS:
            yield "call", ast.Call(ast.Attribute(value, FUNCTIONS[attr], ast.Load()), node.args, node.keywords)
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            yield "call", ast.Call(ast.Name(FUNCTIONS[name], ast.Load()), node.args, node.keywords)


def _child(node: ast.AST, field: str, place: int | None) -> ast.AST:
    value = getattr(node, field)
    child: ast.AST = value if place is None else value[place]
    return child


def _text(node: ast.AST) -> str:
    """The source of a node, of a branch its condition only, in one line."""
    if isinstance(node, ast.If):
        return f"if {_text(node.test)}"
    return " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
