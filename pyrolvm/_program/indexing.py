"""Which dimensions of a program the codes of its data index: what labels of categories are the labels of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.ops.provenance import extract_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrolvm._base.errors import DataError
from pyrolvm._base.passing import passed_over
from pyrolvm._program.data import mapped
from pyrolvm._program.labels import Levels
from pyrolvm._program.program import Program
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.starting import Start, centre
from pyrolvm._program.traces import Message

__all__ = ["labelled"]

_BY_INDEX = {"index_select": (2, 1), "gather": (2, 1), "take_along_dim": (1, 2)}
"""Where functions take their index, and the dimension that it goes along."""

Mark = tuple[str, str]


class _Marks(Messenger):
    """Marks the values of latents with the names of their sites."""

    def _pyro_post_sample(self, msg: Message) -> None:
        if isinstance(msg["value"], Tensor) and is_random(msg) and not is_deterministic(msg) and not msg["is_observed"]:
            msg["value"] = _marked(msg["value"], ("site", msg["name"]))


class _Indexing(TorchFunctionMode):
    """Notes which sites are indexed by which codes, and the length of the dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, str, int]] = set()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs a function of torch, after a look at what it indexes."""
        kwargs = kwargs or {}
        for held, index, size in _indexed(str(getattr(func, "__name__", "")), args, kwargs):
            names = [name for kind, name in _marks(index) if kind == "argument"]
            sites = [name for kind, name in _marks(held) if kind == "site"]
            self.found |= {(site, name, size) for site in sites for name in names}
        return func(*args, **kwargs)


def _indexed(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, Any, int]]:
    """What is indexed, the index, and the length of the dimension that it goes along."""
    given = [*args, *kwargs.values()]
    if name == "embedding" and len(given) > 1:
        index, held = given[:2]
        yield held, index, len(held)
    elif name in _BY_INDEX and len(given) > 2:
        at, along = _BY_INDEX[name]
        if isinstance(given[along], int):
            yield given[0], given[at], given[0].shape[given[along]]
    elif name == "__getitem__" and len(args) > 1:
        held, indices = args[0], list(args[1]) if isinstance(args[1], tuple) else [args[1]]
        tail = len(indices) - next((i for i, one in enumerate(indices) if one is Ellipsis), len(indices))
        for i, one in enumerate(indices):
            at = i if i < len(indices) - tail else i - len(indices)
            if (
                isinstance(one, Tensor)
                and not any(other is None for other in indices)
                and -held.dim() <= at < held.dim()
            ):
                yield held, one, held.shape[at]


def labelled(problem: Program, levels: Mapping[str, Levels]) -> dict[str, str]:
    """For dimensions of latents that columns of labels index, which column it is; those that several index are left out.

    Args:
        problem: the problem, as it was read.
        levels: the codes of its columns, by their place among the arguments.

    Raises:
        DataError: if a column of labels is observed as a quantity.
    """
    if not levels:
        return {}

    def marked(label: str, leaf: object) -> object:
        return _marked(leaf, ("argument", label)) if label in levels and isinstance(leaf, Tensor) else leaf

    named = {name: mapped(value, name, marked) for name, value in problem.arguments.items()}
    args, kwargs = list(named.values())[: len(problem.args)], dict(list(named.items())[len(problem.args) :])
    watch = _Indexing()
    with problem.session(seed=0), torch.no_grad():
        try:
            with watch, poutine.trace() as tracer, _Marks(), Start(centre):
                problem.model(*args, **kwargs)
        except Exception:
            passed_over("whatever marked tensors cannot do: its dimensions then have numbers")
            return {}
    _check_quantities(problem, levels, tracer.trace.nodes)
    found: dict[str, set[str]] = {}
    for site, label, size in watch.found:
        dims = [d for d, n in zip(problem.dims[site], problem.sites[site].shape, strict=True) if n == size]
        if len(dims) == 1 and size >= len(levels[label].labels):
            found.setdefault(dims[0], set()).add(label)
    return {dim: next(iter(labels)) for dim, labels in found.items() if len(labels) == 1}


def _check_quantities(problem: Program, levels: Mapping[str, Levels], nodes: Mapping[str, Any]) -> None:
    """Refuses codes that are observed as quantities: labels have no distances."""
    for site in problem.observed:
        column = next((name for kind, name in _marks(nodes[site.name]["value"]) if kind == "argument"), None)
        support = getattr(nodes[site.name]["fn"], "support", None)
        if column is not None and support is not None and not support.is_discrete:
            labels = levels[column].labels
            shown = ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")
            raise DataError(
                f"observed site {site.name!r} is {site.distribution}, a law of quantities, and argument {column!r} holds labels "
                f"({shown}), whose codes are 0 to {len(labels) - 1}. Fix: observe it by dist.Categorical or "
                "dist.Bernoulli, or pass numbers."
            )


def _marked(value: Tensor, mark: Mark) -> Tensor:
    found: Tensor = track_provenance(extract_provenance(value)[0], frozenset({mark}))
    return found


def _marks(value: object) -> frozenset[Mark]:
    found: frozenset[Mark] = get_provenance(value)
    return found
