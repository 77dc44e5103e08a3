"""Groups of actions in words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pyrolvm._program.symmetry.action import Values, closure
from pyrolvm._program.symmetry.candidates import Move
from pyrolvm._program.symmetry.record import Block

__all__ = ["block_of", "listed", "rotation_of"]

COUNTED = 1_000
"""Up to so many actions a group is counted by making all of them."""

SHOWN = 6


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    words = list(words)
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _sites(moves: Sequence[Move]) -> str:
    """The sites that moves act on."""
    names: dict[str, None] = {}
    for move in moves:
        given = [unit.names or (unit.site,) for unit in move.units]
        taken = {unit.label for unit in move.units}
        rest = [part for part in move.parts if part not in taken]
        for name in (*(n for group in given for n in group), *rest):
            names[name] = None
    quoted = [f"`{name}`" for name in names]
    return listed(quoted if len(quoted) <= SHOWN else [*quoted[: SHOWN - 1], f"{len(quoted) - SHOWN + 1} sites more"])


def _members(members: Iterable[int]) -> str:
    order = sorted(set(members))
    if len(order) > SHOWN:
        return f"{len(order)} components, {order[0]} to {order[-1]},"
    return f"components {listed(str(k) for k in order)}"


def _classes(moves: Sequence[Move]) -> list[set[int]]:
    """Members that exchanges connect."""
    classes: list[set[int]] = []
    for move in moves:
        pair = set(move.members)
        joined = [one for one in classes if one & pair]
        classes = [one for one in classes if not one & pair] + [pair.union(*joined)]
    return classes


def block_of(moves: Sequence[Move]) -> Block:
    """A group of actions with its description."""
    texts, short, count = [], [], 1.0
    exchanges: dict[tuple[str, ...], list[Move]] = defaultdict(list)
    for move in moves:
        if move.kind == "exchange":
            exchanges[move.parts].append(move)
    for group in exchanges.values():
        for members in _classes(group):
            named = all(unit.names for unit in group[0].units)
            texts.append(f"{'' if named else f'{_members(members)} of '}{_sites(group[:1])} are exchangeable")
            short.append("exchangeable components")
            count *= math.factorial(len(members))
    swaps = [move for move in moves if move.kind == "swap"]
    for move in swaps:
        pairs = [part for part in move.parts if " and " in part]
        quoted = listed(" and ".join(f"`{name}`" for name in pair.split(" and ")) for pair in pairs)
        mirrored = "".join(f" while `{part}` is mirrored" for part in move.parts if part not in pairs)
        texts.append(f"{quoted} can change places{mirrored}")
        short.append("exchangeable sites")
        count *= 2
    signs = [move for move in moves if move.kind == "sign"]
    if signs:
        joint = ", all together" if len(signs[0].parts) > 1 else ""
        single = " of each component" if signs[0].members else ""
        texts.append(f"the sign{single} of {_sites(signs)} is free{joint}")
        short.append("free signs")
        count *= 2.0 ** len(signs)
    others = [move for move in moves if move.kind in ("reflection", "turn")]
    if others:
        texts.append(f"{_sites(others)} can be mirrored or turned without a change of the density")
        short.append("mirror images")
    generators = tuple(move.action for move in moves)
    every = closure(generators, COUNTED)
    return Block("; ".join(texts), listed(dict.fromkeys(short)), float(len(every)) if every else count, generators)


def rotation_of(move: Move, members: Sequence[int], slices: Values) -> Block:
    """The rotations of some members into each other."""
    which = f"{_members(members)} of " if move.kind == "exchange" else ""
    return Block(f"{which}{_sites([move])} can be rotated into each other", "rotations", math.inf, (), slices)
