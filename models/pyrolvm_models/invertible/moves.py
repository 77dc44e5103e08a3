"""Which coordinates set the move of which: one half that of the other, or each that of those after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrolvm_models._zuko import zuko
from pyrolvm_models.invertible.base import Block, Mapped
from pyrolvm_models.invertible.elements import Element
from pyrolvm_models.invertible.networks import quiet_last, with_dropout

__all__ = ["Coupling", "MaskedAutoregressive"]


class Coupling(Block):
    r"""One part of the coordinates moves, by parameters that a network computes from the part that stays.

    Both directions take one pass of the network.

    Args:
        size: the number of coordinates, or of channels.
        element: how a coordinate moves.
        network: from the coordinates that stay, ``(..., stay)``, to ``(..., moved * element.size)``; channels in place of coordinates
            for images.
        moves: which coordinates move, booleans; the second half by default.
        event_dim: 1 for vectors, 3 for images, of which channels are coupled.
    """

    order: Tensor
    back: Tensor

    def __init__(
        self, size: int, element: Element, network: nn.Module, *, moves: Tensor | None = None, event_dim: int = 1
    ) -> None:
        super().__init__()
        self.element, self.network, self.event_dim = element, network, event_dim
        moves = torch.arange(size) >= size // 2 if moves is None else moves.bool()
        order = torch.cat([torch.nonzero(~moves)[:, 0], torch.nonzero(moves)[:, 0]])
        self.stay, self.axis = int((~moves).sum()), -event_dim
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def _terms_of(self, stay: Tensor, moved: Tensor) -> Tensor:
        raw: Tensor = self.network(stay)
        parts = raw.unflatten(self.axis, (moved.shape[self.axis], self.element.size))
        return parts.movedim(self.axis, -1)

    def _move(self, x: Tensor, how: Callable[[Tensor, Tensor], Mapped]) -> Mapped:
        x = x.index_select(self.axis, self.order)
        stay, moved = x.tensor_split([self.stay], dim=self.axis)
        z, log_slope = how(moved, self._terms_of(stay, moved))
        out = torch.cat([stay, z], dim=self.axis).index_select(self.axis, self.back)
        return out, log_slope.flatten(-self.event_dim).sum(-1)

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        return self._move(x, self.element.forward)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        return self._move(z, self.element.inverse)


class MaskedAutoregressive(Block):
    r"""Coordinate :math:`i` moves by parameters that a masked network computes from those before it.

    Forward takes one pass of the network, the inverse as many as there are coordinates: densities are fast and draws slow, as in
    MAF; :class:`Inverted` it is the other way round, as in IAF.

    Args:
        size: the number of coordinates.
        element: how a coordinate moves.
        hidden: units of the network's hidden layers.
        order: the order of the coordinates, a permutation; as they come by default.
        dropout: the share of hidden units that a training step leaves out.
    """

    def __init__(
        self, size: int, element: Element, hidden: Sequence[int], *, order: Tensor | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.element = size, element
        rank = torch.arange(size) if order is None else order.argsort()
        before = rank[:, None] > rank[None, :]
        network = zuko.nn.MaskedMLP(
            before.repeat_interleave(element.size, dim=0), hidden_features=list(hidden), activation=nn.ELU
        )
        self.network = with_dropout(network, dropout)
        quiet_last(network)

    def _terms_of(self, x: Tensor) -> Tensor:
        raw: Tensor = self.network(x)
        return raw.unflatten(-1, (self.size, self.element.size))

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        z, log_slope = self.element(x, self._terms_of(x))
        return z, log_slope.sum(-1)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        x = torch.zeros_like(z)
        for _ in range(self.size):  # after pass i the first i coordinates of the order are exact
            x, _ = self.element.inverse(z, self._terms_of(x))
        return x, -self.element(x, self._terms_of(x))[1].sum(-1)
