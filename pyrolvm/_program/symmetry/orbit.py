"""What symmetries do to draws: whether copies lie apart, all copies alike, or each draw brought to one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyrolvm._program.symmetry.action import Action, Values, closure
from pyrolvm._program.symmetry.record import Block, Symmetries

__all__ = ["Alignment", "elements", "lies_apart", "scattered", "separated"]

MOST_ELEMENTS = 200
"""Up to so many actions of a group are listed; of larger groups draws take random products."""

NEAR, FEW = 0.25, 0.05
"""Copies lie apart where at most so few draws are so near their image, in units of the distances' root mean square: 20% of one
normal mode are, 14% of a uniform one, and 5% of two normal ones whose means are 4.5 sds apart."""

HOLLOW = 1.6
"""How many times the ratio of mean and sd of a radius must be that of a normal law, or there is no ring to rotate on."""

CONCENTRATED = 0.6
"""The length of the mean direction, after all turns are laid over each other, from which on phases lie apart."""

ROUNDS = 3


def separated(symmetries: Symmetries, flat: Values) -> tuple[Block, ...]:
    """The blocks whose copies lie apart at draws ``(n, size)``: where they overlap, draws of one copy are draws of all."""
    return tuple(block for block in symmetries.blocks if lies_apart(block, flat))


def lies_apart(block: Block, flat: Values) -> bool:
    """Whether a block's copies are modes of their own."""
    if len(flat) < 4 or not np.isfinite(flat).all():
        return False
    if block.slices is not None:
        axes = len(block.slices)
        radius = np.sqrt(np.sum(flat[:, block.slices] ** 2, axis=1))
        normal = math.exp(math.lgamma((axes + 1) / 2) - math.lgamma(axes / 2)) * math.sqrt(2)
        return bool(_ratios(radius).max() > HOLLOW * normal / math.sqrt(axes - normal**2))
    return any(np.max(_score(generator, flat), initial=0.0) > 1 for generator in block.generators)


def _ratios(sizes: Values) -> Values:
    """Mean over sd of positive numbers, by column; 0 where they are constant, as numbers that do not move are."""
    mean, sd = sizes.mean(axis=0), sizes.std(axis=0)
    moving = sd > 1e-12 * mean
    return np.where(moving, mean / np.where(moving, sd, 1.0), 0.0)


def _gap(sizes: Values) -> Values:
    """How empty the middle between draws and their images is, by column of distances: beyond 1 they lie apart."""
    root = np.sqrt(np.mean(sizes**2, axis=0))
    near = np.mean(sizes <= NEAR * root, axis=0)
    gap: Values = FEW / (near + 1e-3 / (1 + _ratios(sizes)))  # among gaps without a draw the clearest one first
    return np.where(root > 0, gap, 0.0)


def _score(action: Action, flat: Values) -> Values:
    """How far apart draws and their images lie, by number that moves: beyond 1 is apart."""
    moved = action.moved
    turning = np.isfinite(action.period[moved])
    image = action(flat)
    score = _gap(np.abs(flat[:, moved] - image[:, moved]))
    for k in np.flatnonzero(turning):
        i = moved[k]
        angle = 2 * np.pi * (flat[:, i] - action.low[i]) / action.period[i]
        if action.sign[i] > 0:
            share = action.shift[i] / action.period[i]
            order = next((n for n in range(1, 13) if abs(n * share - round(n * share)) < 1e-9), 1)
            score[k] = 2.0 if order > 1 and abs(np.exp(1j * order * angle).mean()) > CONCENTRATED else 0.0
        else:
            other = 2 * np.pi * (image[:, i] - action.low[i]) / action.period[i]
            gaps = np.stack([np.cos(angle) - np.cos(other), np.sin(angle) - np.sin(other)], axis=1)
            score[k] = _gap(np.abs(gaps)).max()
    return score


def elements(block: Block) -> list[Action] | None:
    """All actions of a block; ``None`` of a rotation or a large group."""
    return closure(block.generators, MOST_ELEMENTS) if block.generators else None


def scattered(blocks: Sequence[Block], flat: Values, seed: int) -> Values:
    """Each draw mapped by an action chosen at random, so that all copies have an equal share: exactly right under a symmetry.

    Args:
        blocks: the groups to choose from.
        flat: draws, shape ``(n, size)``.
        seed: makes it repeatable.
    """
    random = np.random.default_rng([seed, 73])
    result = flat.copy()
    for block in blocks:
        every = elements(block)
        if block.slices is not None:
            result = _rotated(block.slices, result, random)
        elif every is not None:
            chosen = random.permutation(np.arange(len(result)) % len(every))  # as even as it can be
            for k, action in enumerate(every):
                rows = chosen == k
                result[rows] = action(result[rows])
        else:
            for _ in range(6 * len(block.generators)):
                chosen = random.integers(2 * len(block.generators), size=len(result))
                for k, action in enumerate(block.generators):
                    rows = chosen == k
                    result[rows] = action(result[rows])
    return result


def _rotated(slices: Values, flat: Values, random: np.random.Generator) -> Values:
    axes = len(slices)
    q, r = np.linalg.qr(random.normal(size=(len(flat), axes, axes)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    result = flat.copy()
    result[:, slices] = q @ flat[:, slices]
    return result


@dataclass(frozen=True)
class Alignment:
    """Brings every draw to the copy nearest one point: functions of a draw that are the same at all its images.

    Attributes:
        blocks: the groups whose copies are laid over each other.
        pivot: the point, shape ``(size,)``.
        scale: what distances from it are measured in, number by number.
    """

    blocks: tuple[Block, ...]
    pivot: Values
    scale: Values

    @classmethod
    def of(cls, blocks: Sequence[Block], flat: Values, heights: Values | None = None) -> Alignment:
        """An alignment that suits some draws: to the one of the highest density at first, then to the mean of what is near.

        Args:
            blocks: the groups.
            flat: draws, shape ``(n, size)``.
            heights: their log densities, shape ``(n,)``.
        """
        best = 0 if heights is None or not np.isfinite(heights).any() else int(np.nanargmax(heights))
        pivot = flat[best].copy()
        spread = flat.std(axis=0)
        for block in blocks:
            pivot = _canonical(block, pivot, flat)
            spread[block.moved] = max(float(spread[block.moved].max()), 1e-300)
        found = cls(tuple(blocks), pivot, np.where(spread > 0, spread, 1.0))
        wraps = np.zeros(len(pivot), dtype=bool)
        for block in blocks:
            for generator in block.generators:
                wraps |= np.isfinite(generator.period)
        for _ in range(ROUNDS):
            near = found(flat)
            sd = near.std(axis=0)
            middle = np.where(wraps, pivot, near.mean(axis=0))
            found = cls(found.blocks, middle, np.where(sd > 1e-12 * spread, sd, found.scale))
        return found

    def __call__(self, flat: Values) -> Values:
        """The images of draws ``(n, size)`` that lie nearest the pivot."""
        return self.labelled(flat)[0]

    def labelled(self, flat: Values) -> tuple[Values, list[Values | None]]:
        """The images, and for each block the number of the action that led there; ``None`` where actions are not numbered."""
        result, labels = flat, []
        for block in self.blocks:
            every = elements(block)
            label: Values | None = None
            if block.slices is not None:
                result = self._turned(block.slices, result)
            elif every is not None:
                result, label = self._nearest(block, every, result)
            else:
                result = self._descended(block, result)
            labels.append(label)
        return result, labels

    def _distance(self, block: Block, flat: Values) -> Values:
        moved = block.moved
        gap = flat[:, moved] - self.pivot[moved]
        for generator in block.generators:
            period = generator.period[moved]
            turns = np.isfinite(period)
            if turns.any():
                gap[:, turns] -= period[turns] * np.round(gap[:, turns] / period[turns])
        distance: Values = np.sum((gap / self.scale[moved]) ** 2, axis=1)
        return distance

    def _nearest(self, block: Block, every: Sequence[Action], flat: Values) -> tuple[Values, Values]:
        result, label = flat.copy(), np.zeros(len(flat), dtype=int)
        least = self._distance(block, flat)
        for k, action in enumerate(every[1:], start=1):
            image = action(flat)
            distance = self._distance(block, image)
            nearer = distance < least
            result[nearer], least[nearer], label[nearer] = image[nearer], distance[nearer], k
        return result, label

    def _descended(self, block: Block, flat: Values) -> Values:
        """By generators, one at a time, as long as one leads nearer."""
        result, least = flat.copy(), self._distance(block, flat)
        for _ in range(len(block.generators) + 1):
            before = least.copy()
            for action in block.generators:
                image = action(result)
                distance = self._distance(block, image)
                nearer = distance < least
                result[nearer], least[nearer] = image[nearer], distance[nearer]
            if not (least < before).any():
                break
        return result

    def _turned(self, slices: Values, flat: Values) -> Values:
        """The rotation that brings all axes nearest, by the polar decomposition (Procrustes)."""
        result = flat.copy()
        u, _, v = np.linalg.svd(self.pivot[slices] @ np.swapaxes(flat[:, slices], 1, 2))
        result[:, slices] = u @ v @ flat[:, slices]
        return result


def _canonical(block: Block, pivot: Values, flat: Values) -> Values:
    """The image of a point in which members ascend, signs are positive and axes are principal ones, wherever it started."""
    if block.slices is not None:
        point = pivot.copy()
        u, _, _ = np.linalg.svd(pivot[block.slices], full_matrices=False)
        axes = u.T @ pivot[block.slices]
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
        point[block.slices] = axes * np.where(largest < 0, -1.0, 1.0)
        return point
    leading = [(action, int(action.moved[_score(action, flat).argmax()])) for action in block.generators]
    for _ in range(50):
        before = pivot
        for action, i in leading:
            image, j = action(pivot), int(action.source[i])
            low = min(i, j)
            better = image[low] < pivot[low] if i != j or np.isfinite(action.period[i]) else image[i] > pivot[i]
            pivot = image if better else pivot
        if pivot is before:
            break
    return pivot
