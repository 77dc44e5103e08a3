"""Finds the symmetries of a program by trying: actions under which its log density stays the same at random points.

An action that is none changes the density at almost every point, so that a few points settle it: points that can tell. Where one
component of a mixture outdoes the others by so much that rounding hides them, what they are exchanged for is not seen; so what an
action moves has to matter, elsewhere than in its own prior, at some point. Sites with different priors, ordered components and rows
with data of their own are told apart by the density itself.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.errors import PyrolvmError
from pyrolvm._base.randomness import random_state
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.density import Joint, map_draws
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry.action import Values
from pyrolvm._program.symmetry.candidates import Move, pairs, proposals, units
from pyrolvm._program.symmetry.describe import block_of, rotation_of
from pyrolvm._program.symmetry.layout import Layout
from pyrolvm._program.symmetry.record import Block, Symmetries

__all__ = ["find_symmetries"]

MOST_UNKNOWNS = 2_000
"""Up to so many unknowns symmetries are sought."""

MOST_TRIED = 600
"""Proposals of one kind; fewer where a density costs much."""

MOST_WORK = 20_000_000
"""Numbers that all densities of one round may compute, roughly."""

ONE_BY_ONE = 40
"""Proposals of one kind where densities can only be evaluated one at a time."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-6}
"""Share of a log density by which it may change from rounding alone."""

LARGEST = {torch.float64: 1e8, torch.float32: 1e4}
"""Log densities of this size and more tell too little: a change in a prior would drown in their rounding."""

PLAINLY = 10
"""By how many times what rounding may do a density changes where it can tell."""

NUDGE = 0.02
"""Share of a move by which it is seen whether the numbers that it moves matter where they are."""

FURTHER = 12
"""Points that are tried where the first ones cannot tell: half of them from the prior."""

ANGLE = 0.7

FAILURES = (PyrolvmError, RuntimeError, ValueError, TypeError, NotImplementedError, ArithmeticError, LookupError)
"""What a model may raise at values that no guide would draw: then nothing is known of its symmetries."""


def find_symmetries(problem: Problem) -> Symmetries:
    """The symmetries of a problem's posterior, sought once and kept with the problem.

    Sought are exchanges of members along axes of equal length (components with their weights, hidden states, columns of loadings),
    of sites alike, changes of sign, alone and together, mirrored and turned intervals, and rotations; not of models with
    learnable parameters, streams, or more than 2,000 unknowns.
    """
    kept: Symmetries | None = problem.kept.get("symmetries")
    if kept is None:
        kept = _find(problem)
        problem.kept["symmetries"] = kept
    return kept


def _find(problem: Problem) -> Symmetries:
    layout = Layout.of(problem)
    if not layout.size or problem.parameters or problem.stream is not None:
        return Symmetries(layout, reason="nothing whose symmetries are sought")
    if layout.size > MOST_UNKNOWNS:
        return Symmetries(layout, reason=f"more than {MOST_UNKNOWNS:,} unknowns")
    reasons = []
    for dtype in dict.fromkeys((torch.float64, problem.dtype)):
        if dtype not in TOLERANCE:
            continue
        try:
            finer = problem.to(dtype=dtype)
            with finer.session(seed=0), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that no draw would have
                return _search(finer, layout)
        except FAILURES as error:
            reasons.append(f"{dtype}: {type(error).__name__}: {error}")
    return Symmetries(layout, reason="; ".join(reasons) or "another dtype")


class _Trial:
    """Puts moves to the test at a few points."""

    def __init__(self, problem: Problem, layout: Layout) -> None:
        self.problem, self.layout, self.joint = problem, layout, Joint(problem)
        self.tolerance = TOLERANCE[problem.dtype]
        self.points = self._points()

    def values(self, flat: Values) -> dict[str, Tensor]:
        """Draws by site, of flat vectors ``(count, n)``."""
        like = torch.zeros((), dtype=self.problem.dtype, device=self.problem.device)
        return {name: torch.as_tensor(part).to(like) for name, part in self.layout.split(flat).items()}

    def density(self, flat: Values) -> Values:
        """Log densities at flat vectors ``(count, n)``."""
        values = self.values(flat)
        inside = sum(site.numel for site in self.problem.observed)
        found = map_draws(lambda one: {"log_p": self.joint.log_p(one)}, values, inside=inside)["log_p"]
        return found.cpu().double().numpy()

    def _points(self) -> list[Values]:
        """Three draws of finite density, anywhere in the middle of the support; of the prior where there are none."""
        random, found = np.random.default_rng(7), []
        like = torch.zeros((), dtype=self.problem.dtype, device=self.problem.device)
        for scale in (0.7, 0.7, 0.7, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1):
            real = torch.as_tensor(random.normal(0.0, scale, self.problem.unconstrained_size)).to(like)
            values = {name: value.cpu().numpy() for name, value in self.joint.constrain(real).items()}
            flat = self.layout.join(values, lead=0)
            height = float(self.density(flat[None])[0])
            if math.isfinite(height) and abs(height) < LARGEST[self.problem.dtype]:
                found.append(flat)
            if len(found) == 3:
                return found
        return [*found, *itertools.islice(self._further(), 3 - len(found))]

    def _together(self) -> bool:
        """Whether many densities can be evaluated at once."""
        try:
            vmapped(self.joint.log_p)(self.values(np.stack([self.points[0]] * 2)))
        except FAILURES:
            return False
        return True

    def limit(self) -> int:
        """How many proposals of a kind are worth trying."""
        if not self._together():
            return ONE_BY_ONE
        cost = sum(site.numel for site in self.problem.sites.values())
        return max(min(MOST_TRIED, MOST_WORK // max(cost, 1)), ONE_BY_ONE)

    def keep(self, moves: Sequence[Move]) -> list[Move]:
        """Those that change no density."""
        left = list(moves)
        for point in self.points:
            if left:
                same = self.same(point, [move.action for move in left])
                left = [move for move, good in zip(left, same, strict=True) if good]
        return left

    def sure(self, moves: Sequence[Move]) -> list[Move]:
        """Those of which a point could tell that they are none, and did not."""
        left, told = list(moves), set[int]()
        for point in self.points:
            told |= {id(m) for m in self._told(point, [m for m in left if id(m) not in told])}
        dark = [m for m in left if id(m) not in told]
        if dark:
            told |= {id(m) for m in dark if self._alone(m)}
        for point in self._further() if len(told) < len(left) else ():
            dark = [m for m in left if id(m) not in told]
            if not dark:
                break
            same = self.same(point, [move.action for move in dark])
            wrong = {id(move) for move, good in zip(dark, same, strict=True) if not good}
            left = [move for move in left if id(move) not in wrong]
            told |= {id(m) for m in self._told(point, [m for m in dark if id(m) not in wrong])}
        return [move for move in left if id(move) in told]

    def _told(self, point: Values, moves: Sequence[Move]) -> list[Move]:
        """Moves that would show here: a little way along them, what depends on the numbers that they move is another."""
        if not moves:
            return []
        partway = [point + NUDGE * (move.action(point) - point) for move in moves]
        here = self._elsewhere(np.stack([point] * len(moves)), moves)
        there = self._elsewhere(np.stack(partway), moves)
        with np.errstate(invalid="ignore"):
            dark = np.abs(there - here) <= PLAINLY * self.tolerance * (1 + np.abs(here))
        return [move for move, hidden in zip(moves, dark, strict=True) if not hidden]

    def _alone(self, move: Move) -> bool:
        """Whether nothing but their own priors depends on the numbers that a move moves."""
        point = self.points[0].copy()
        point[move.action.moved] = math.nan
        own = self._own(move)
        try:
            found = self.joint.log_probs({name: value[0] for name, value in self.values(point[None]).items()})
        except FAILURES:
            return False
        return not any(bool(value.isnan().any()) for name, value in found.items() if name not in own)

    def _own(self, move: Move) -> list[str]:
        """The sites that a move acts on."""
        return [name for name, where in self.layout.places().items() if np.isin(where, move.action.moved).any()]

    def _elsewhere(self, flat: Values, moves: Sequence[Move]) -> Values:
        """Log densities at points, each without the priors of the sites that the move beside it moves."""
        inside = sum(site.numel for site in self.problem.observed)

        def parts(one: dict[str, Tensor]) -> dict[str, Tensor]:
            terms = self.joint.terms(one)
            return {
                name: each.sum() for name, each in terms.items() if name.partition("/")[0] in ("log_p", "log_prior")
            }

        found = {k: v.cpu().double().numpy() for k, v in map_draws(parts, self.values(flat), inside=inside).items()}
        out: Values = found["log_p"].copy()
        for row, move in enumerate(moves):
            names = [f"log_prior/{name}" for name in self._own(move)]
            out[row] -= sum(found[name][row] for name in names if name in found)
        return out

    def _further(self) -> Iterator[Values]:
        """Other points of finite density: draws of the prior where it can be drawn from, and others that are far apart."""
        random = np.random.default_rng(11)
        like = torch.zeros((), dtype=self.problem.dtype, device=self.problem.device)
        for number in range(FURTHER):
            if number % 2 == 0:
                try:
                    values = self._prior_draw(number)
                except FAILURES:
                    continue
            else:
                real = torch.as_tensor(random.normal(0.0, 1.0 + number / 4, self.problem.unconstrained_size)).to(like)
                values = {name: value.cpu().numpy() for name, value in self.joint.constrain(real).items()}
            flat = self.layout.join(values, lead=0)
            height = float(self.density(flat[None])[0])
            if math.isfinite(height) and abs(height) < LARGEST[self.problem.dtype]:
                yield flat

    def _prior_draw(self, seed: int) -> dict[str, Values]:
        with random_state(seed, self.problem.device):
            trace = poutine.trace(self.problem.program).get_trace(*self.problem.args, **self.problem.kwargs)
        return {s.name: torch.as_tensor(trace.nodes[s.name]["value"]).cpu().numpy() for s in self.problem.continuous}

    def same(self, point: Values, maps: Sequence[Callable[[Values], Values]]) -> list[bool]:
        """Which maps leave the density at a point what it is."""
        heights = self.density(np.stack([point, *(one(point) for one in maps)]))
        bound = self.tolerance * (1 + abs(heights[0]))
        with np.errstate(invalid="ignore"):
            return [bool(good) for good in np.abs(heights[1:] - heights[0]) <= bound]


def _search(problem: Problem, layout: Layout) -> Symmetries:
    trial = _Trial(problem, layout)
    if len(trial.points) < 2:
        return Symmetries(layout, reason="no finite density near the middle of the support")
    known = units(problem)
    found = trial.sure(trial.keep(list(proposals(problem, known, trial.limit()))))
    found = _smallest(found)
    found = _smallest(_unique(trial.sure(trial.keep(_all_members(found)))))
    rotations = _rotations(trial, found)
    blocks = [*rotations, *_blocks(found, rotations)]
    return Symmetries(layout, tuple(blocks), _invariant(trial, blocks))


def _all_members(found: Sequence[Move]) -> list[Move]:
    """Every move of the kinds found, of all members; few enough of long axes."""
    moves: list[Move] = []
    for move in found:
        if not move.units or not move.members:
            moves.append(move)
        elif move.kind == "sign":
            moves += [move.of(k) for k in range(move.units[0].members)]
        else:
            members = move.units[0].members
            every = pairs(members)
            moves += [move.of(*pair) for pair in (every if members <= 16 else every[: members - 1])]
    return _unique(moves)


def _unique(moves: Sequence[Move]) -> list[Move]:
    """Each action once."""
    return list({move.action.key: move for move in reversed(moves)}.values())[::-1]


def _smallest(moves: Sequence[Move]) -> list[Move]:
    """Moves without those that are a smaller one of the same kind and another, or that single members add up to."""
    kept = []
    for move in moves:
        parts = set(move.parts)
        smaller = any(
            other.kind == move.kind and other.members == move.members and set(other.parts) < parts for other in moves
        )
        if not smaller and not _adds_up(move, moves):
            kept.append(move)
    return kept


def _adds_up(move: Move, moves: Sequence[Move]) -> bool:
    """Whether a change of sign is that of smaller sets, one after the other."""
    if move.kind != "sign":
        return False
    whole = set(move.action.moved.tolist())
    inside = [set(o.action.moved.tolist()) for o in moves if o.kind == "sign" and o is not move]
    inside = [part for part in inside if part < whole]
    return bool(inside) and set().union(*inside) == whole and sum(map(len, inside)) == len(whole)


def _rotations(trial: _Trial, found: Sequence[Move]) -> list[Block]:
    """Axes that may be rotated into each other, among those that may be exchanged and mirrored."""
    blocks = []
    done: set[tuple[str, ...]] = set()
    for move in found:
        if move.mirror is not None or move.parts in done or not all(unit.real for unit in move.units):
            continue
        if move.kind == "exchange":
            slices = np.concatenate([unit.slices for unit in move.units], axis=1)
            chosen = sorted({k for other in found if other.parts == move.parts for k in other.members})
        elif move.kind == "swap":
            moved, source = move.action.moved, move.action.source
            first = moved[source[moved] > moved]
            slices = np.stack([first, source[first]])
            chosen = [0, 1]
        else:
            continue
        if len(np.unique(slices)) < slices.size:  # rows and columns of one matrix
            continue
        done.add(move.parts)
        planes = [_plane(slices[i], slices[j]) for i, j in itertools.pairwise(chosen)]
        if planes and all(all(trial.same(point, planes)) for point in trial.points):
            blocks.append(rotation_of(move, chosen, slices[chosen]))
    return blocks


def _plane(one: Values, other: Values) -> Callable[[Values], Values]:
    def rotate(x: Values) -> Values:
        y = x.copy()
        y[..., one] = math.cos(ANGLE) * x[..., one] - math.sin(ANGLE) * x[..., other]
        y[..., other] = math.sin(ANGLE) * x[..., one] + math.cos(ANGLE) * x[..., other]
        return y

    return rotate


def _blocks(found: Sequence[Move], rotations: Sequence[Block]) -> list[Block]:
    """Moves that share a number make up a group; those of numbers that rotate are part of the rotation."""
    rotating = {int(i) for block in rotations for i in block.moved}
    groups: list[tuple[set[int], list[Move]]] = []
    for move in found:
        moved = set(move.action.moved.tolist())
        if moved & rotating:
            continue
        joined = [group for group in groups if group[0] & moved]
        groups = [group for group in groups if not group[0] & moved]
        numbers = moved.union(*(group[0] for group in joined))
        groups.append((numbers, [*(m for group in joined for m in group[1]), move]))
    return [block_of(moves) for _, moves in groups]


def _invariant(trial: _Trial, blocks: Sequence[Block]) -> tuple[str, ...]:
    """Deterministic sites that no action changes, as far as that can be told: not under discrete latents or rotations."""
    problem = trial.problem
    names = [site.name for site in problem.sites.values() if site.kind == "deterministic"]
    actions = [generator for block in blocks for generator in block.generators]
    if not names or problem.discrete or not actions or any(block.slices is not None for block in blocks):
        return ()
    point = trial.points[0]
    flat = np.stack([point, *(action(point) for action in actions)])
    found = map_draws(trial.joint.deterministic, trial.values(flat))
    return tuple(
        name
        for name in names
        if name in found and torch.allclose(found[name], found[name][:1].expand_as(found[name]), rtol=1e-8, atol=1e-10)
    )
