"""Batches of matrix products that share a factor, as one product.

``vmap`` over particles or draws turns ``X @ beta`` into as many products with the same ``X``, repeated. One product of ``X`` with
all the vectors reads ``X`` once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pyrolvm._compat.torch import UNSAFE_VIEW

__all__ = ["joined"]

aten = torch.ops.aten
_VIEWS = (aten.view.default, UNSAFE_VIEW, aten.alias.default)


def joined(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with each ``bmm`` of which one factor is repeated along the batch as an ``mm``."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=aten.bmm.default):
        left, right = (_shared(factor) for factor in node.args)
        if (left is None) == (right is None) or len(node.meta["val"]) == 1:
            continue  # neither, or both, and then XLA and torch see it themselves
        batch, rows, columns = node.meta["val"].shape
        with graph.inserting_before(node):
            make = _Maker(graph, node)
            if right is not None:
                stacked = make(aten.reshape.default, node.args[0], [batch * rows, -1])
                product = make(aten.mm.default, stacked, right)
                result = make(aten.view.default, product, [batch, rows, columns])
            else:
                turned = make(aten.transpose.int, node.args[1], 1, 2)
                stacked = make(aten.reshape.default, turned, [batch * columns, -1])
                product = make(aten.mm.default, stacked, make(aten.t.default, left))
                result = make(aten.view.default, product, [batch, columns, rows])
                result = make(aten.transpose.int, result, 1, 2)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    module.recompile()
    return module


class _Maker:
    """Adds operations, with what torch would say of their results."""

    def __init__(self, graph: fx.Graph, like: fx.Node) -> None:
        self.graph, self.device = graph, like.meta["device"]

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        shapes = fx.map_arg(args, lambda n: torch.empty_like(n.meta["val"], device="meta"))
        node.meta.update(val=target(*shapes), device=self.device)
        return node


def _shared(node: Any) -> fx.Node | None:
    """The matrix that a batch of matrices repeats; ``None`` if they differ."""
    batch = node.meta["val"].shape
    while isinstance(node, fx.Node) and node.op == "call_function":
        source: Any = node.args[0]
        if node.target in _VIEWS and source.meta["val"].shape == node.meta["val"].shape:
            node = source
        elif node.target is aten.expand.default:
            node = source
        else:
            break
    shape = node.meta["val"].shape
    return node if shape == batch[1:] else None
