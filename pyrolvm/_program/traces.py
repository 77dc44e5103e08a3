"""What Pyro's traces and messages hold, as far as anything here reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

import pyro.distributions as dist
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

__all__ = ["Message", "Trace"]


class Message(TypedDict):
    """A statement of a program on its way through the handlers, and afterwards a node of the trace."""

    type: str
    name: str
    fn: dist.TorchDistribution
    value: Any  # a tensor as a rule, and nothing before it is drawn
    is_observed: bool
    infer: dict[str, object]
    mask: Tensor | bool | None
    scale: Tensor | float
    cond_indep_stack: tuple[CondIndepStackFrame, ...]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    done: bool
    stop: bool


class Trace(Protocol):
    """A run of a program: its statements by name, with log densities once they are asked for."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """The statements, in the order of the run. What they hold is computed by Pyro, and typed where it is used."""

    def compute_log_prob(self) -> None:
        """Sets the log density of each sample site."""

    def compute_score_parts(self) -> None:
        """Sets the parts of each guide site's score function."""

    def log_prob_sum(self) -> Tensor | float:
        """The log density of all sample sites together."""

    def pack_tensors(self) -> None:
        """Sets the tensors of each site in packed form."""

    def remove_node(self, site_name: str) -> None:
        """Takes a statement out."""
