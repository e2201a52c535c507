"""The seams looked up in the host's source files, so that nothing of the host needs to be imported: for `doctor`."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from simpletuner_twinflow.host.seams import CONFIG, Config, Seam, Touch, all_hooks

Scope = dict[str, ast.AST]  # what a module or class defines, by name


def problems_in_sources(config: Config | None = None) -> tuple[list[str], dict[str, str]]:
    """What is wrong with the seams of the installed host: of needed hooks, and of optional ones with what is lost.

    As `refuse_broken_seams` finds them, but for names that the host makes while it runs.

    Args: config: of the run that needs them; without one, what only some runs need is optional.
    """
    needed: dict[str, None] = {}
    optional: dict[str, str] = {}
    for name, hook in all_hooks():
        for seam in hook.seams:
            if found := problem(seam, seam.module or name):
                if hook.lost is None or (hook.needed_by is not None and config is not None and hook.needed_by(config)):
                    needed[found if hook.lost is None else f"{hook.lost} ({found})"] = None
                else:
                    optional[found] = hook.lost
    return [*needed], optional


def problem(seam: Seam, module: str) -> str | None:
    """What is wrong with this seam in that module's file; None when it is as expected."""
    if seam.owner == CONFIG:
        return None
    scope = definitions(module)
    if scope is None:
        return f"{module} is missing"
    where = f"{module}.{seam.path}"
    found: ast.AST | None = None
    for part in seam.path.split("."):
        if part not in scope:
            return None if _made_by(seam, found, part) else f"{where} is missing"
        found = scope[part]
        scope = _scope(found)
    if not seam.parameters or not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = found.args
    accepted = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    lacking = [name for name in seam.parameters if name not in accepted]
    return f"{where} lacks the parameter {', '.join(lacking)}" if lacking and arguments.kwarg is None else None


@cache
def definitions(module: str) -> Scope | None:
    """The names that a module defines or imports at its top; None if there is no such module."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place, *inner)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return _scope(ast.parse(file.read_text(encoding="utf-8")))
    return None


def _scope(node: ast.AST) -> Scope:
    return dict(_defined(getattr(node, "body", [])))


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name, statement
            case ast.Import() | ast.ImportFrom():
                yield from (((each.asname or each.name).split(".")[0], statement) for each in statement.names)
            case ast.Assign():
                yield from (
                    (each.id, statement)
                    for target in statement.targets
                    for each in ast.walk(target)
                    if isinstance(each, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, statement
            case ast.If() | ast.Try() | ast.With() | ast.For():
                for part in ("body", "orelse", "finalbody"):
                    yield from _defined(getattr(statement, part, []))
                for handler in getattr(statement, "handlers", []):
                    yield from _defined(handler.body)


def _made_by(seam: Seam, owner: ast.AST | None, name: str) -> bool:
    """Whether this is an attribute that the class sets in `__init__`, or that the plugin sets."""
    if seam.touch is Touch.given or seam.path.endswith(".__init__"):
        return True
    if not isinstance(owner, ast.ClassDef) or seam.parameters or seam.touch is Touch.wrapped:
        return False
    init = _scope(owner).get("__init__")
    return init is not None and any(isinstance(each, ast.Attribute) and each.attr == name for each in ast.walk(init))
