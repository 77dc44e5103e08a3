"""What is known of a posterior's symmetries, as a result keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrolvm._program.symmetry.action import Action, Values, identity
from pyrolvm._program.symmetry.layout import Layout
from pyrolvm._runs.attributes import check_sizes, said

__all__ = ["SYMMETRY", "Block", "Symmetries", "read_symmetries"]

SYMMETRY = "pyrolvm_symmetry"
"""The attribute of a tree that has the record."""
_COPIES = 6
"""Arrays of an action, each as long as a draw."""


@dataclass(frozen=True)
class Block:
    """A group of actions on some of a draw's numbers, under which the posterior is invariant.

    Attributes:
        text: what is symmetric, in words.
        short: the same in two or three words.
        copies: the number of actions; infinite for rotations.
        generators: actions that make up the group; none for rotations.
        slices: of a rotation the numbers that each axis has, shape ``(axes, m)``.
    """

    text: str
    short: str
    copies: float
    generators: tuple[Action, ...] = ()
    slices: Values | None = None

    @property
    def moved(self) -> Values:
        """The numbers that any action changes."""
        if self.slices is not None:
            return np.unique(self.slices)
        return np.unique(np.concatenate([generator.moved for generator in self.generators]))

    @property
    def how_many(self) -> str:
        """The number of copies in words."""
        if math.isinf(self.copies):
            return "a continuum of copies"
        return f"{self.copies:,.0f} copies" if self.copies < 1e6 else f"{self.copies:.1g} copies"


@dataclass(frozen=True)
class Symmetries:
    """The symmetries of a posterior.

    Attributes:
        layout: how a draw's numbers lie in one vector.
        blocks: groups of actions on disjoint numbers.
        invariant: deterministic sites that no action changes.
        reason: why none were sought, where that is so.
    """

    layout: Layout
    blocks: tuple[Block, ...] = ()
    invariant: tuple[str, ...] = ()
    reason: str = ""

    def only(self, blocks: Sequence[Block]) -> Symmetries:
        """The same with some of the blocks."""
        return Symmetries(self.layout, tuple(blocks), self.invariant, self.reason)

    def dumps(self, **more: Any) -> str:
        """The record as JSON, with entries of the caller's own."""
        blocks = [
            {
                "text": block.text,
                "short": block.short,
                "copies": None if math.isinf(block.copies) else block.copies,
                "generators": [_packed(generator) for generator in block.generators],
                "slices": None if block.slices is None else block.slices.tolist(),
            }
            for block in self.blocks
        ]
        sites = [[name, list(shape)] for name, shape in self.layout.sites]
        return json.dumps({"sites": sites, "blocks": blocks, "invariant": list(self.invariant), **more})


def _packed(action: Action) -> dict[str, list[object]]:
    moved = action.moved
    return {
        "moved": moved.tolist(),
        "source": action.source[moved].tolist(),
        "sign": action.sign[moved].astype(int).tolist(),
        "shift": action.shift[moved].tolist(),
        "low": action.low[moved].tolist(),
        "period": [None if math.isinf(value) else value for value in action.period[moved].tolist()],
    }


def _unpacked(size: int, packed: Mapping[str, Any]) -> Action:
    action, moved = identity(size), np.asarray(packed["moved"], dtype=int)
    action.source[moved] = packed["source"]
    for name in ("sign", "shift", "low"):
        getattr(action, name)[moved] = packed[name]
    action.period[moved] = [math.inf if value is None else value for value in packed["period"]]
    return action


def read_symmetries(attrs: Mapping[Any, Any]) -> tuple[Symmetries, dict[str, Any]] | None:
    """The record that a tree's attributes have, and the entries beside it; ``None`` where there is none."""
    return said(attrs, SYMMETRY, _read, None)


def _read(raw: dict[str, Any]) -> tuple[Symmetries, dict[str, Any]]:
    layout = Layout(tuple((name, tuple(shape)) for name, shape in raw.pop("sites")))
    check_sizes(SYMMETRY, _COPIES * layout.size * sum(len(one["generators"]) for one in raw["blocks"]))
    blocks = tuple(
        Block(
            one["text"],
            one["short"],
            math.inf if one["copies"] is None else float(one["copies"]),
            tuple(_unpacked(layout.size, packed) for packed in one["generators"]),
            None if one["slices"] is None else np.asarray(one["slices"], dtype=int),
        )
        for one in raw.pop("blocks")
    )
    return Symmetries(layout, blocks, tuple(raw.pop("invariant"))), raw
