"""Polynomial degrees read off a recorded graph: what shows that a log density is quadratic everywhere, not at some points only.

Each node of the graph gets the degree, as a polynomial in each input, of what it computes. Operations whose result is no
polynomial of their inputs, comparisons among them, have no degree (infinite), and so has everything that follows from them.
Operations that are not known are taken to be such, so that a finite degree is a proof and an infinite one is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from pyrolvm._capture import Captured
from pyrolvm._capture.recorder import operation
from pyrolvm._compat.torch import pytree

__all__ = ["Degree", "branch", "degrees"]

NONE = math.inf


@dataclass(frozen=True)
class Degree:
    """What is known of one value.

    Attributes:
        total: its degree as a polynomial in all inputs that count; infinite where none is known.
        each: the same by input, for those it depends on.
        why: the operation that took the degree away.
    """

    total: float = 0
    each: Mapping[int, float] = field(default_factory=dict)
    why: str = ""

    @property
    def constant(self) -> bool:
        """Whether it does not depend on the inputs that count."""
        return self.total == 0


def degrees(captured: Captured, counted: Sequence[bool]) -> list[Degree]:
    """The degrees of the leaves of a captured function's result.

    Args:
        captured: the function.
        counted: for each input, whether it is a variable of the polynomials; others are constants.
    """
    known: dict[fx.Node, Degree] = {}
    place = 0
    for node in captured.module.graph.nodes:
        if node.op == "placeholder":
            variable = place < len(counted) and counted[place]
            known[node] = Degree(1, {place: 1}) if variable else Degree()
            place += 1
        elif node.op == "call_function":
            known[node] = _degree(node, known)
        elif node.op == "output":
            return [known[leaf] for leaf in pytree.tree_leaves(node.args[0])]
        else:
            known[node] = Degree()
    return []


def branch(captured: Captured, leaves: Sequence[bool]) -> str:
    """The first operation that compares what follows from an input with something; empty where there is none.

    Args:
        captured: the function.
        leaves: which leaves of its result to look at.
    """
    graph = captured.module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"][: captured.inputs]
    follows, wanted = set(inputs), set()
    for node in graph.nodes:
        if any(source in follows for source in node.all_input_nodes):
            follows.add(node)
    for node in reversed(list(graph.nodes)):
        if node.op == "output":
            found = pytree.tree_leaves(node.args[0])
            wanted = {leaf for leaf, asked in zip(found, leaves, strict=True) if asked}
        elif node in wanted:
            wanted.update(node.all_input_nodes)
    for node in graph.nodes:
        if node.op == "call_function" and node in wanted and any(source in follows for source in node.all_input_nodes):
            if operation(node).split(".")[0] in _BRANCHES:
                return operation(node)
    return ""


def _degree(node: fx.Node, known: Mapping[fx.Node, Degree]) -> Degree:
    args = [_of(arg, known) for arg in node.args]
    named = {name: _of(value, known) for name, value in node.kwargs.items()}
    if all(part.constant for part in (*args, *named.values())):
        return Degree()
    whole = operation(node)
    name = "" if whole in _NOT_AS_NAMED else whole.split(".")[0]
    if name in _SHAPES:
        return Degree()
    found = None
    if name in _LINEAR:
        found = args[0] if _fixed(args[1:], named) else None
    elif name in _SUMS:
        found = _highest(args[:2]) if _fixed(args[2:], named) else None
    elif name in _JOINS:
        found = args[0] if _fixed(args[1:], named) else None
    elif name in _PRODUCTS:
        found = _product(args[:2]) if _fixed(args[2:], named) else None
    elif name in _AFFINE:
        found = _highest([args[0], _product(args[1:3])]) if _fixed(args[3:], named) else None
    elif name == "div":
        found = args[0] if _fixed(args[1:], named) and node.kwargs.get("rounding_mode") is None else None
    elif name == "square":
        found = _product([args[0], args[0]])
    elif name == "pow":
        power = node.args[1]
        if isinstance(power, int | float) and 0 <= power <= _LARGEST and float(power).is_integer():
            found = _product([args[0]] * int(power))
    elif name == "where" and len(args) == 3:
        found = _highest(args[1:]) if args[0].constant else None
    elif name in _SOLVES:
        matrix, right = (args[0], args[1]) if name in _MATRIX_FIRST else (args[1], args[0])
        found = right if matrix.constant and _fixed(args[2:], named) else None
    elif name in _WRITES:
        written = _WRITES[name]
        others = [part for i, part in enumerate(args) if i not in (0, written)]
        found = _highest([args[0], args[written]]) if _fixed(others, named) else None
    elif name == "_to_copy":
        found = args[0] if node.meta["val"].dtype.is_floating_point else None
    return found if found is not None else _lost([*args, *named.values()], whole)


def _of(arg: object, known: Mapping[fx.Node, Degree]) -> Degree:
    """The highest degree of all nodes in an argument."""
    return _highest([known[leaf] for leaf in pytree.tree_leaves(arg) if isinstance(leaf, fx.Node)])


def _fixed(args: Iterable[Degree], named: Mapping[str, Degree]) -> bool:
    return all(part.constant for part in (*args, *named.values()))


def _highest(parts: Sequence[Degree]) -> Degree:
    if len(parts) == 1:
        return parts[0]
    each: dict[int, float] = {}
    for part in parts:
        for source, degree in part.each.items():
            each[source] = max(degree, each.get(source, 0))
    why = next((part.why for part in parts if part.why), "")
    return Degree(max((part.total for part in parts), default=0), each, why)


def _product(parts: Sequence[Degree]) -> Degree:
    each: dict[int, float] = {}
    for part in parts:
        for source, degree in part.each.items():
            each[source] = each.get(source, 0) + degree
    return Degree(sum(part.total for part in parts), each, next((part.why for part in parts if part.why), ""))


def _lost(parts: Sequence[Degree], name: str) -> Degree:
    before = _highest(parts)
    return Degree(NONE, dict.fromkeys(before.each, NONE), before.why or name)


_LARGEST = 8
"""Powers above this are far from quadratic anyway."""

_BRANCHES = {
    "lt",
    "le",
    "gt",
    "ge",
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "argmax",
    "argmin",
    "sort",
    "topk",
    "floor_divide",
}
"""Operations that make a density of pieces. Equality is not among them: the log densities of torch look for exact zeros by it."""

_SHAPES = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}

_LINEAR = {
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "squeeze", "unsqueeze", "slice", "select",
    "index", "index_select", "gather", "clone", "alias", "neg", "sum", "mean", "cumsum", "flip", "roll", "diagonal",
    "diag_embed", "tril", "triu", "split", "split_with_sizes", "chunk", "unbind", "getitem", "repeat", "constant_pad_nd",
    "lift_fresh", "lift_fresh_copy", "narrow", "movedim", "unfold", "masked_fill", "trace", "as_strided", "contiguous",
    "detach", "take", "repeat_interleave", "reflection_pad1d", "replication_pad1d", "squeeze_copy", "view_copy",
}  # fmt: skip
"""Affine in the first argument, the others held."""

_NOT_AS_NAMED = {"view.dtype", "scatter.reduce", "scatter.value_reduce"}
"""Overloads that do something else."""

_SUMS = {"add", "sub", "rsub"}
_JOINS = {"cat", "stack", "hstack", "vstack"}
_PRODUCTS = {"mul", "mm", "bmm", "matmul", "mv", "dot", "vdot", "inner", "outer"}
_AFFINE = {"addmm", "addmv", "baddbmm", "addbmm", "addr", "addcmul"}
"""The first argument plus the product of the next two."""

_SOLVES = {"linalg_solve_triangular", "cholesky_solve", "triangular_solve", "_linalg_solve_ex", "linalg_lu_solve"}
_MATRIX_FIRST = {"linalg_solve_triangular", "_linalg_solve_ex"}
"""Linear in the right side where the matrix is held."""

_WRITES = {
    "scatter": 3, "scatter_add": 3, "index_add": 3, "index_put": 2,
    "slice_scatter": 1, "select_scatter": 1, "diagonal_scatter": 1, "masked_scatter": 2,
}  # fmt: skip
"""Affine in the first argument and in what is written, whose place among the arguments this tells."""
