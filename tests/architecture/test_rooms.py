"""How the package is built: no module imports itself in a circle, wherever its imports stand; what is public is little."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyrolvm as lvm

ROOT = Path(lvm.__file__).parent
LAZY = 16
"""Imports of our own inside functions, each of a module that brings JAX, matplotlib or a cluster with it; fewer is better."""

ANY = 15
"""Annotations with ``Any`` in a thousand lines: of what other libraries leave open, and where a type would say less than it costs."""

PUBLIC = 40
"""Modules without an underscore in their path."""


def _modules() -> dict[str, Path]:
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = _modules()


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """What of ours a file imports, wherever that stands, and whether inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            found: list[str] = []
            if isinstance(child, ast.Import):
                found = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                found = [f"{child.module}.{alias.name}" for alias in child.names]
            for name in found:
                if name.split(".")[0] == "pyrolvm":
                    yield name, inside
            yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text()), False)


def _graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """The modules that each one imports; the face, which imports all of them by name, is left out."""
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for imported, _ in _imports(path):
            target = imported
            while target and target not in modules:
                target = target.rpartition(".")[0]
            if target not in ("pyrolvm", name) and name not in ("pyrolvm", "pyrolvm.__main__"):
                graph[name].add(target)
    return graph


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports another one of them; empty if there are none."""
    left = dict(graph)
    while True:
        ends = [name for name, imported in left.items() if not any(other in left for other in imported)]
        if not ends:
            break
        for name in ends:
            del left[name]
    while left:  # what nobody among them imports is above the circle, not in it
        used = {other for imported in left.values() for other in imported}
        above = [name for name in left if name not in used]
        if not above:
            break
        for name in above:
            del left[name]
    return sorted(left)


def test_no_module_imports_itself_in_a_circle() -> None:
    assert not _circle(_graph(MODULES))


def test_a_circle_is_found_where_there_is_one() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def test_imports_inside_functions_are_few() -> None:
    lazy = [
        f"{name}: {imported}"
        for name, path in MODULES.items()
        if name != "pyrolvm"
        for imported, inside in _imports(path)
        if inside
    ]
    assert len(lazy) <= LAZY, "\n".join(lazy)


def _annotations(tree: ast.AST) -> Iterator[ast.expr | None]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (one.annotation for one in (*node.args.args, *node.args.kwonlyargs))
            yield node.returns
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def test_most_of_what_is_passed_on_has_a_type() -> None:
    texts = [path.read_text() for path in MODULES.values()]
    untyped = sum(
        any(isinstance(part, ast.Name) and part.id == "Any" for part in ast.walk(one))
        for text in texts
        for one in _annotations(ast.parse(text))
        if one is not None
    )
    assert 1000 * untyped <= ANY * sum(text.count("\n") for text in texts)


def test_little_is_public() -> None:
    public = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]
    assert len(public) <= PUBLIC, public


@pytest.mark.parametrize("name", sorted(set(lvm.__all__) - {"callbacks", "__version__"}))
def test_no_module_has_the_name_of_a_public_function(name: str) -> None:
    """The import of a submodule would put it in the function's place."""
    assert f"pyrolvm.{name}" not in MODULES


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_every_room_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_long(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= 520


@pytest.mark.parametrize("package", ["pyrolvm_guides", "pyrolvm_models"])
def test_the_zoo_is_built_on_what_is_public(package: str) -> None:
    root = Path(importlib.import_module(package).__file__ or "").parent
    used = [f"{path.name}: {name}" for path in root.rglob("*.py") for name, _ in _imports(path) if "._" in name]
    assert not used


PEELING = {"peeling.py", "annealed.py"}
"""Where wrappers of distributions are taken off: in one place, and where two distributions are unwrapped side by side."""


def test_distributions_are_peeled_in_one_place() -> None:
    loops = [
        f"{path.name}:{node.lineno}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.While)
        and any(isinstance(n, ast.Attribute) and n.attr == "base_dist" for n in ast.walk(node))
    ]
    assert {place.split(":")[0] for place in loops} == PEELING, loops
