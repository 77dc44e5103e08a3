"""Options of a method: read off the source of its function, where each is written once, with its type, its default and its sentence.

The source is parsed and not imported, so that a command line can say what a method takes before torch is loaded. For the same reason
there is no dataclass here: dataclasses import more than all of the help needs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyrolvm._base.asking import counts
from pyrolvm._base.errors import PluginError

if TYPE_CHECKING:
    import ast

__all__ = ["Option", "options_of"]


class Option(NamedTuple):
    """One option of a method.

    Attributes:
        name: the keyword.
        kinds: what it may be, such as ``("int", "None")``, as its annotation says.
        default: its default; text where it is no literal.
        text: what it is for: the entry of the function's docstring.
    """

    name: str
    kinds: tuple[str, ...]
    default: object
    text: str

    @property
    def sentence(self) -> str:
        """The first clause of its text, without markup."""
        plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", self.text).replace("``", "")
        first = re.split(r"(?<=[\w)\"])[.;](?:\s|$)|:(?:\s|$)", plain, maxsplit=1)[0]
        return " ".join(first.split())

    @property
    def is_plain(self) -> bool:
        """Whether it can be a number, a truth value or text, so that a command line can give it."""
        return bool({"int", "float", "str", "bool"} & set(self.kinds))

    @property
    def counts(self) -> bool:
        """Whether numbers depend on it, rather than where they are kept and how they are shown."""
        return counts(self.name)


@functools.cache
def options_of(home: str) -> Mapping[str, Option]:
    """The keyword-only arguments of a function by name, in the order of its signature.

    Args:
        home: ``module:function``, where the function is defined; its docstring has a section ``Args``.

    Raises:
        PluginError: if there is no such source, or it defines no such function.
    """
    import ast  # not before a method is asked for

    module, _, name = home.partition(":")
    function = _function(_source(module), name)
    if function is None:
        raise PluginError(
            f"method {home!r}: its module's source defines no such function. "
            "Fix: name the module in which the function is written."
        )
    said = _entries(ast.get_docstring(function) or "")
    found = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        kinds = _kinds("" if argument.annotation is None else ast.unparse(argument.annotation))
        found[argument.arg] = Option(argument.arg, kinds, _literal(default), said.get(argument.arg, ""))
    return found


def _source(module: str) -> str:
    """The text of a module, found from its top package, of which nothing below is imported."""
    from importlib.util import find_spec

    top, *rest = module.split(".")
    spec = find_spec(top)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if spec is not None and not rest and spec.origin:
        return Path(spec.origin).read_text(encoding="utf-8")
    for folder in folders:
        for path in (Path(folder, *rest).with_suffix(".py"), Path(folder, *rest, "__init__.py")):
            if path.is_file():
                return path.read_text(encoding="utf-8")
    raise PluginError(f"method in {module!r}: there is no source of that module. Fix: install its distribution.")


def _function(source: str, name: str) -> ast.FunctionDef | None:
    import ast

    return next((n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _literal(node: ast.expr | None) -> object:
    import ast

    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return "" if node is None else ast.unparse(node)


def _kinds(annotation: str) -> tuple[str, ...]:
    """The members of a union, as they are written; of subscripts the part outside the brackets."""
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", annotation)) != annotation:
        annotation = shorter
    return tuple(part.strip() for part in annotation.split("|"))


def _entries(doc: str) -> dict[str, str]:
    """The section ``Args`` of a docstring, by name."""
    lines = doc.splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}\**(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = [entry[2]]
        elif name:
            found[name].append(line.strip())
    return {name: " ".join(text).strip() for name, text in found.items()}
