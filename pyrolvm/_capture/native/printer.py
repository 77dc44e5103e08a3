"""From statements to one C function: which share their loops, where arrays live, and how each is written down."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from pyrolvm._capture.native.builder import KINDS, Array, Builder, Statement

__all__ = ["REDUCTIONS", "body"]

# How terms are joined: the new value of {0} with the term {1}.
REDUCTIONS = {
    "+": "{0} += {1};",
    "*": "{0} *= {1};",
    "larger": "{{ const double t = {1}; {0} = LARGER({0}, t); }}",
    "smaller": "{{ const double t = {1}; {0} = SMALLER({0}, t); }}",
    "|": "{0} |= {1};",
    "&": "{0} &= {1};",
}
_IN_VECTORS = ("+", "*")
_TOKEN = re.compile(r"@(\d+)@")


@dataclass(eq=False)
class _Group:
    """Statements in the same loops, in order."""

    domain: tuple[int, ...]
    statements: list[Statement] = field(default_factory=list)
    code: bool = False


def body(builder: Builder) -> tuple[str, int]:
    """The statements in C, and how many numbers of 8 bytes of scratch space (``scratch``) they need."""
    groups = _schedule(builder)
    return _Printer(builder, groups).run()


def _schedule(builder: Builder) -> list[_Group]:
    """Puts each statement into the first group of its shape that comes after what it reads from.

    It may join the loops that compute what it reads if it reads there only the entry that was just computed.
    """
    groups: list[_Group] = []
    alike: dict[tuple[int, ...], list[int]] = {}
    ready: dict[Array, int] = {}
    for statement in builder.statements:
        first = 0
        for token in statement.reads:
            array, _ = builder.tokens[token]
            if array in ready:
                where = ready[array]
                joins = groups[where].domain == statement.domain and _beside(builder, token, statement)
                first = max(first, where if joins and not groups[where].code else where + 1)
        places = alike.setdefault(statement.domain, [])
        found = bisect_left(places, first)
        if statement.code or found == len(places):
            groups.append(_Group(statement.domain, code=statement.code))
            place = len(groups) - 1
            if not statement.code:
                places.append(place)
        else:
            place = places[found]
        groups[place].statements.append(statement)
        ready[statement.target] = max(place, ready.get(statement.target, 0))
    return groups


def _beside(builder: Builder, token: int, reader: Statement) -> bool:
    """Whether an entry is the one that the loops which compute its array have just computed."""
    array, position = builder.tokens[token]
    if reader.code or not array.local:
        return False
    writer = builder.writers[array]
    return writer.reduction is None and writer.position == position


class _Printer:
    def __init__(self, builder: Builder, groups: list[_Group]) -> None:
        self.builder = builder
        self.groups = groups
        self.home = {s.target: g for g, group in enumerate(groups) for s in group.statements}
        self.stored: set[Array] = {a for a in builder.arrays if not a.local}
        self.reach: dict[Array, list[int]] = {}
        self._reached: dict[int, set[Array]] = {g: set() for g in range(len(groups))}

    def run(self) -> tuple[str, int]:
        texts = [[self._text(s, g) for s in group.statements] for g, group in enumerate(self.groups)]
        places, size = self._memory()
        parts = [self._group(g, texts[g], places) for g in range(len(self.groups))]
        return "\n".join(parts), size

    # --- names --------------------------------------------------------------------------------------------------------

    def _text(self, statement: Statement, g: int) -> tuple[str, str]:
        """Expression and position of a statement, with the names of what they read."""
        self._touch(statement.target, g)
        return self._fill(statement.text, statement, g), self._fill(str(statement.position), statement, g)

    def _fill(self, text: str, statement: Statement, g: int) -> str:
        while _TOKEN.search(text):
            text = _TOKEN.sub(lambda match: self._name(int(match[1]), statement, g), text)
        return text

    def _name(self, token: int, statement: Statement, g: int) -> str:
        array, position = self.builder.tokens[token]
        if array.scalar:
            return array.name
        if self.home.get(array) == g and _beside(self.builder, token, statement):
            return f"{array.name}_"
        self.stored.add(array)
        self._touch(array, g)
        return f"{array.name}[{position}]"

    def _touch(self, array: Array, g: int) -> None:
        self.reach.setdefault(array, []).append(g)
        self._reached[g].add(array)

    # --- memory -------------------------------------------------------------------------------------------------------

    def _memory(self) -> tuple[dict[Array, int], int]:
        """Where each array starts; what no group needs any more is used again."""
        places: dict[Array, int] = {}
        free: list[tuple[int, int]] = []
        top = 0
        live = sorted((a for a in self.stored if not a.source), key=lambda a: (min(self.reach[a]), a.name))
        busy: list[tuple[int, Array, int]] = []
        for array in live:
            now = min(self.reach[array])
            for entry in [b for b in busy if b[0] < now]:
                busy.remove(entry)
                free.append((entry[2], places[entry[1]]))
            need = max(8, -(-array.size // 8) * 8)
            fitting = sorted(f for f in free if f[0] >= need and f[0] <= 2 * need)
            if fitting:
                free.remove(fitting[0])
                need, places[array] = fitting[0]
            else:
                places[array] = top
                top += need
            busy.append((max(self.reach[array]), array, need))
        return places, top

    # --- text ---------------------------------------------------------------------------------------------------------

    def _group(self, g: int, texts: list[tuple[str, str]], places: dict[Array, int]) -> str:
        group = self.groups[g]
        if group.code:
            return "\n".join(["{", *self._pointers(g, places), *(text for text, _ in texts), "}"])
        before, loops = self._loops(group, texts)
        if not group.domain and not self._pointers(g, places):
            return "\n".join([*before, *loops])
        return "\n".join([*before, "{", *self._pointers(g, places), *loops, "}"])

    def _pointers(self, g: int, places: dict[Array, int]) -> list[str]:
        lines = []
        written = {id(statement.target) for statement in self.groups[g].statements}
        for array in sorted(self._reached[g], key=lambda a: a.name):
            if array.local and array not in self.stored:
                continue
            kind = KINDS[array.kind]
            source = array.source or f"(void *)(scratch + {places[array]})"
            const = "" if id(array) in written else "const "
            lines.append(f"{const}{kind} *restrict {array.name} = {source};")
        return lines

    def _loops(self, group: _Group, texts: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """What is declared ahead of the loops, and the loops."""
        depth = len(group.domain)
        before: list[str] = []
        opening: list[list[str]] = [[] for _ in range(depth + 1)]
        closing: list[list[str]] = [[] for _ in range(depth + 1)]
        joined: list[tuple[str, str]] = []
        for statement, (text, position) in zip(group.statements, texts, strict=True):
            array = statement.target
            kind = KINDS[array.kind]
            if statement.reduction is None:
                if array.scalar:
                    before.append(f"{kind} {array.name};")
                    opening[depth].append(f"{array.name} = {text};")
                elif not array.local:
                    opening[depth].append(f"{array.name}[{position}] = {text};")
                else:
                    opening[depth].append(f"const {kind} {array.name}_ = {text};")
                    if array in self.stored:
                        opening[depth].append(f"{array.name}[{position}] = {array.name}_;")
                continue
            operator, start = statement.reduction
            join = REDUCTIONS[operator]
            level = self._level(statement)
            kept_outside = prod(group.domain[:level]) == array.size
            if not kept_outside:
                start_all = f"for (integer k = 0; k < {array.size}; k++) {array.name}[k] = {start};"
                opening[0].insert(0, start_all)
            if level == depth:
                opening[depth].append(join.format(f"{array.name}[{position}]", text))
                continue
            total = array.name if array.scalar else f"{array.name}_"
            (before if array.scalar else opening[level]).insert(0, f"{kind} {total} = {start};")
            opening[depth].append(join.format(total, text))
            joined.append((operator, total))
            if not array.scalar:
                place = f"{array.name}[{position}]"
                closing[level].append(f"{place} = {total};" if kept_outside else join.format(place, total))
        lines = []
        for d in range(depth):
            lines += opening[d]
            if d == depth - 1 and all(s.reduction is None or s.reduction[0] in _IN_VECTORS for s in group.statements):
                clauses = [f" reduction({op}:{name})" for op, name in joined]
                lines.append("#pragma omp simd" + "".join(clauses))
            lines.append(f"for (integer i{d} = 0; i{d} < {group.domain[d]}; i{d}++) {{")
        lines += opening[depth]
        for d in reversed(range(depth)):
            lines += [*closing[d + 1], "}"]
        return before, [*lines, *closing[0]]

    @staticmethod
    def _level(statement: Statement) -> int:
        """How many of the outer loops the place of the result depends on."""
        names = [d for d in range(len(statement.domain)) if statement.position.stride(f"i{d}")]
        return max(names) + 1 if names else 0
