"""What another library calls private is used in ``pyrolvm/_compat`` alone, and modules leave each other's private parts alone.

A name is private if it begins with one underscore. Looked for are attributes, imports, arguments by keyword, and such names as text,
which ``getattr`` and ``__dict__`` take.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
HOMES = {"pyrolvm": ROOT, "pyrolvm_guides": ROOT / "guides", "pyrolvm_models": ROOT / "models"}

WORDS = {
    "_lane": "a dimension of draws of ours, while it is there",
    "_FillValue": "the attribute that netCDF files have by convention",
    "_instance": "an argument of expand() that torch's distributions take",
}
"""Names with an underscore that are no part of a library's code."""

INHERITED = {
    "_validate_args": "torch.distributions.Distribution",
    "_validate_sample": "torch.distributions.Distribution",
    "_get_trace": "pyro.infer.elbo.ELBO",
}
"""What a base class of another library leaves to those that derive from it, beside the ``_pyro_`` methods of Pyro's handlers."""

BORROWED: dict[str, str] = {}
"""Private attributes of its own that another module of the same package reads: ``"file.py: _name"``, and why."""


@cache
def files() -> dict[Path, ast.Module]:
    found = {}
    for package, home in HOMES.items():
        for path in sorted((home / package).rglob("*.py")):
            found[path] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


@cache
def made(tree: ast.AST) -> set[str]:
    """The names that a module makes: functions, classes, variables, arguments and attributes of its own objects."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            found.add(node.attr)
        elif (
            isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant)
        ):
            if ast.unparse(node.value) == "self.__dict__":
                found.add(str(node.slice.value))
    return found


@cache
def ours() -> set[str]:
    return set().union(*(made(tree) for tree in files().values()))


@cache
def rooms() -> set[str]:
    """The names of our modules and packages."""
    return {part.removesuffix(".py") for path in files() for part in path.relative_to(ROOT).parts}


def is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in HOMES


def is_module(path: str) -> bool:
    home = HOMES[path.partition(".")[0]].joinpath(*path.split("."))
    return home.is_dir() or home.with_suffix(".py").exists()


def uses(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and kind of each private name that is used and not known to be harmless."""
    own, known = made(tree), ours()
    part_of_another = pieces(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if is_own(node.value):
                if node.attr not in known and node.attr not in INHERITED:
                    yield node.lineno, node.attr, "of a base class of another library"
            elif node.attr not in own:
                yield node.lineno, node.attr, "of another module" if node.attr in known else "of another library"
        elif isinstance(node, ast.keyword) and is_private(node.arg or ""):
            if node.arg not in known and node.arg not in WORDS:
                yield node.value.lineno, str(node.arg), "of another library"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
            harmless = id(node) in part_of_another or node.value in own | rooms() | WORDS.keys()
            if not harmless and not hasattr(torch.ops.aten, node.value):
                yield node.lineno, node.value, "as text"
        elif isinstance(node, ast.Import):
            for one in node.names:
                if not is_ours(one.name) and any(map(is_private, one.name.split("."))):
                    yield node.lineno, one.name, "imported"
        elif isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                path = f"{node.module}.{one.name}"
                if is_ours(path):
                    if is_private(one.name) and not is_module(path):
                        yield node.lineno, path, "of another module"
                elif any(map(is_private, path.split("."))):
                    yield node.lineno, path, "imported"


def pieces(tree: ast.Module) -> set[int]:
    """Texts that are a part of a longer name, such as what ``removesuffix`` takes, and those that name a site or parameter."""
    found: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found += ast.walk(node)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            found += [node.left, node.right]
        elif isinstance(node, ast.keyword) and node.arg == "suffix":
            found.append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in (
                "removesuffix",
                "removeprefix",
                "endswith",
                "startswith",
                "replace",
                "sample",
                "param",
            ):
                found += node.args
    return {id(node) for node in found}


@cache
def every_use() -> list[tuple[str, int, str, str]]:
    found = []
    for path, tree in files().items():
        if "_compat" not in path.parts:
            place = path.relative_to(ROOT).as_posix()
            found += [(place, line, name, kind) for line, name, kind in uses(tree)]
    return found


def wrong(kinds: set[str]) -> list[str]:
    return [
        f"{p}:{n}: {name} {kind}"
        for p, n, name, kind in every_use()
        if kind in kinds and f"{p}: {name}" not in BORROWED
    ]


def test_private_names_of_other_libraries_are_used_in_compat_alone() -> None:
    found = wrong({"of another library", "of a base class of another library", "imported", "as text"})
    assert not found, "Fix: use what is public, or a function in pyrolvm/_compat.\n" + "\n".join(found)


def test_modules_leave_each_others_private_parts_alone() -> None:
    found = wrong({"of another module"})
    assert not found, "Fix: make it public where it lives, or move the function there.\n" + "\n".join(found)


def test_the_parts_that_are_borrowed_are_still_there() -> None:
    assert not BORROWED.keys() - {f"{place}: {name}" for place, _, name, _ in every_use()}


def functions_of_compat() -> list[str]:
    return [
        f"{path.stem}.{node.name}"
        for path in sorted((ROOT / "pyrolvm" / "_compat").glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not is_private(node.name)
        and "NamedTuple" not in map(ast.unparse, getattr(node, "bases", ()))
    ]


@pytest.mark.parametrize("name", functions_of_compat())
def test_each_function_of_compat_says_where_it_was_seen_and_is_tried(name: str) -> None:
    module, _, function = name.partition(".")
    found = getattr(importlib.import_module(f"pyrolvm._compat.{module}"), function)
    assert re.search(r"\b\d+\.\d+", found.__doc__ or ""), "Fix: name the releases that it was seen in."
    here = Path(__file__).parent
    tried = [path for path in here.glob("test_*.py") if re.search(rf"\b{function}\b", path.read_text(encoding="utf-8"))]
    assert tried, f"Fix: try {function} in {here}."


def derived() -> Iterator[type]:
    """The classes with private attributes of their own that derive from those of other libraries."""
    for path, tree in files().items():
        home = next(
            home
            for home in HOMES.values()
            if home in path.parents and (home / path.relative_to(home).parts[0]).name in HOMES
        )
        module = ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__")
        classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or not any(is_private(name) for name in made(node)):
                continue
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if node.bases and not (bases and bases <= classes | set(dir(builtins)) | {"Protocol"}):
                yield getattr(importlib.import_module(module), node.name)


def test_no_class_replaces_what_its_base_in_another_library_calls_private() -> None:
    found = []
    for kind in derived():
        if "_compat" in kind.__module__.split("."):
            continue
        foreign = [base for base in kind.__mro__ if not is_ours(base.__module__) and base.__module__ != "abc"]
        for name in filter(is_private, vars(kind)):
            if name in INHERITED or name.startswith(("_pyro_", "_abc_", "_is_")):
                continue
            found += [
                f"{kind.__module__}.{kind.__qualname__}.{name}, of {base}" for base in foreign if name in vars(base)
            ]
    assert not found, "Fix: give it another name, or move it to pyrolvm/_compat.\n" + "\n".join(found)


@pytest.mark.parametrize("name", INHERITED)
def test_what_derived_classes_use_of_their_bases_is_there(name: str) -> None:
    module, _, kind = INHERITED[name].rpartition(".")
    base: Any = getattr(importlib.import_module(module), kind)
    assert hasattr(base, name), f"{INHERITED[name]} has no {name} any more"


def test_handlers_of_pyro_still_call_their_methods_by_these_names() -> None:
    import pyro
    import pyro.distributions as dist
    from pyro.poutine.messenger import Messenger

    heard: list[str] = []

    class Heard(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            heard.append("before")

        def _pyro_post_sample(self, msg: Any) -> None:
            heard.append("after")

        def _pyro_param(self, msg: Any) -> None:
            heard.append("parameter")

    with Heard():
        pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.param("p", torch.zeros(1))
    pyro.clear_param_store()
    assert heard == ["before", "after", "parameter"]


@pytest.mark.parametrize(
    "text",
    [
        "import torch._dynamo",
        "from torch._functorch import vmap",
        "from pyro.poutine.runtime import _PYRO_STACK",
        "import torch\ntorch._C._nope()",
        "def f(store): return store._params_of_pyro",
        "def f(store): store._params_of_pyro = {}",
        "class A(B):\n    def f(self): return self._potential_of_a_base",
        "def f(x): return getattr(x, '_pyro_dims')",
        "def f(x): return hasattr(x, '_pyro_dims')",
        "def f(node): return node['infer'].get('_enumerate_dim')",
        "def f(x): return x.__dict__['_buffers']",
        "def f(x): return type(x).__name__ == '_Subsample'",
        "def f(x): return g(x, _foreign_argument=1)",
        "from pyrolvm import _nothing_of_this_name",
        "def f(problem): problem._settle({}, 0, None)",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert list(uses(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "from __future__ import annotations",
        "from pyrolvm._compat.torch import memory_key",
        "from pyrolvm import _compat",
        "class A:\n    def of(cls): return cls()._set_up()\n    def _set_up(self): return self.__dict__",
        "class A:\n    def __init__(self): self._kept = 0\ndef f(a): return a._kept",
        "RULES = {'_softmax': 1, '_to_copy': 2}",
        "def f(name): return f'{name}_error', name.removesuffix('_centered'), name + '_tail'",
        "class A(Distribution):\n    def expand(self, shape, _instance=None): return self._validate_args",
    ],
)
def test_a_name_of_ones_own_is_left_alone(text: str) -> None:
    assert not list(uses(ast.parse(text)))
