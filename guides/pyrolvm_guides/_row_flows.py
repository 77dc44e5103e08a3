"""Bijections of a row's latent variables whose parameters are functions of the row's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pyro.nn import PyroModule
from pyro.nn.module import PyroModuleList
from torch import Tensor

from pyrolvm import GuideError
from pyrolvm_guides._networks import Network, autoregressive_masks

__all__ = ["ROW_FLOWS", "Conditioned", "GatedAutoregressive", "Planar", "RowCoupling", "RowFlow", "row_flows"]

ROW_FLOWS = ("iaf", "coupling", "planar")
"""Families of flows over the latent variables of a row."""

_MAX_LOG_SCALE = 3.0


class RowFlow(PyroModule):
    """A bijection of rows of length ``d``, given what an encoder says of each row.

    Attributes:
        width: how many numbers of the encoder it takes for a row.
    """

    width: int

    def forward(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(..., b, d)`` with context ``(b, width)`` to the image and the log determinant, ``(..., b)``."""
        raise NotImplementedError

    def inverse(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an image back: the preimage, and the forward log determinant there."""
        raise NotImplementedError


class GatedAutoregressive(RowFlow):
    r""":math:`x_i = g_i y_i + (1 - g_i)\, m_i` with :math:`g, m` functions of :math:`y_{<i}` and of the row; :math:`0 < g_i < 1`.

    The forward pass is parallel. The inverse takes ``d`` passes.

    Args:
        dim: the number of coordinates, at least 2.
        hidden: hidden units of the masked network; a linear function of the row's data is added to them.
        width: how many numbers of the encoder it takes for a row.
        reverse: whether coordinates are taken in reverse order.
        like: a tensor whose dtype and device it takes.

    References:
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, https://arxiv.org/abs/1606.04934 (equation 14)
    """

    def __init__(self, dim: int, hidden: int, width: int, *, reverse: bool, like: Tensor) -> None:
        super().__init__()
        self.dim, self.width, self.reverse = dim, width, reverse
        first, last = autoregressive_masks(dim, (hidden,), 2)
        self.first = Network(dim, (), hidden, like=like, masks=(first,), output_gain=1.0)
        self.given = Network(width, (), hidden, like=like, output_gain=1.0)
        # Gates start nearly open, as the paper advises: the flow is then near the identity.
        start = torch.tensor([0.0, 2.0], dtype=like.dtype, device=like.device).repeat(dim)
        self.last = Network(hidden, (), 2 * dim, like=like, masks=(last,), output=start, output_gain=0.1)

    def _mean_and_gate(self, y: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        out = self.last(torch.tanh(self.first(y) + given))
        mean, raw = out.reshape(*out.shape[:-1], self.dim, 2).unbind(-1)
        return mean, raw

    def forward(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        y = y.flip(-1) if self.reverse else y
        mean, raw = self._mean_and_gate(y, self.given(context))
        gate = torch.sigmoid(raw)
        x = gate * y + (1 - gate) * mean
        return (x.flip(-1) if self.reverse else x), torch.nn.functional.logsigmoid(raw).sum(-1)

    def inverse(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(-1) if self.reverse else x
        y, given = x, self.given(context)
        for _ in range(self.dim):  # after pass i the first i coordinates are exact
            mean, raw = self._mean_and_gate(y, given)
            gate = torch.sigmoid(raw)
            y = (x - (1 - gate) * mean) / gate
        _, raw = self._mean_and_gate(y, given)
        return (y.flip(-1) if self.reverse else y), torch.nn.functional.logsigmoid(raw).sum(-1)


class RowCoupling(RowFlow):
    r"""Moves one half of the coordinates given the other half and the row: :math:`x_b = t(x_a) + e^{s(x_a)} y_b`, :math:`|s| < 3`.

    Args:
        dim: the number of coordinates, at least 2.
        hidden: hidden units of the network.
        width: how many numbers of the encoder it takes for a row.
        reverse: whether the second half moves the first.
        like: a tensor whose dtype and device it takes.

    References:
        Dinh, Sohl-Dickstein, Bengio, *Density estimation using Real NVP*, https://arxiv.org/abs/1605.08803
    """

    def __init__(self, dim: int, hidden: int, width: int, *, reverse: bool, like: Tensor) -> None:
        super().__init__()
        self.dim, self.width, self.reverse, self.cut = dim, width, reverse, dim // 2
        kept = dim - self.cut if reverse else self.cut
        self.net = Network(kept + width, (hidden,), 2 * (dim - kept), like=like, output_gain=0.1)

    def _halves(self, y: Tensor) -> tuple[Tensor, Tensor]:
        first, second = y[..., : self.cut], y[..., self.cut :]
        return (second, first) if self.reverse else (first, second)

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.reverse else [kept, moved], -1)

    def _shift_and_log_scale(self, kept: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        given = context.expand(*kept.shape[:-1], self.width)
        shift, raw = self.net(torch.cat([kept, given], -1)).chunk(2, -1)
        return shift, _MAX_LOG_SCALE * torch.tanh(raw / _MAX_LOG_SCALE)

    def forward(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(y)
        shift, log_scale = self._shift_and_log_scale(kept, context)
        return self._joined(kept, shift + log_scale.exp() * moved), log_scale.sum(-1)

    def inverse(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(x)
        shift, log_scale = self._shift_and_log_scale(kept, context)
        return self._joined(kept, (moved - shift) * (-log_scale).exp()), log_scale.sum(-1)


class Planar(RowFlow):
    r""":math:`x = y + \hat u \tanh(w \cdot y + b)` with :math:`u, w, b` linear in what the encoder says of the row.

    :math:`\hat u` is :math:`u` moved along :math:`w` so that :math:`w \cdot \hat u > -1`, which makes it a bijection. The inverse is
    found by bisection in the one direction that bends.

    Args:
        dim: the number of coordinates.
        width: how many numbers of the encoder it takes for a row.
        like: a tensor whose dtype and device it takes.

    References:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, https://arxiv.org/abs/1505.05770
    """

    _HALVINGS = 60

    def __init__(self, dim: int, width: int, *, like: Tensor) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.net = Network(width, (), 2 * dim + 1, like=like, output_gain=0.1, output=_planar_start(dim, like))

    def _bend(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net(context)
        u, w, b = out[..., : self.dim], out[..., self.dim : -1], out[..., -1]
        along = (u * w).sum(-1, keepdim=True)
        wanted = torch.nn.functional.softplus(along) - 1
        return u + (wanted - along) * w / ((w * w).sum(-1, keepdim=True) + 1e-6), w, b

    def forward(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        u, w, b = self._bend(context)
        bend = torch.tanh((w * y).sum(-1) + b)
        return y + u * bend[..., None], torch.log1p((u * w).sum(-1) * (1 - bend * bend))

    def inverse(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        u, w, b = self._bend(context)
        along, target = (u * w).sum(-1), (w * x).sum(-1)
        low, high = target - along.abs(), target + along.abs()
        for _ in range(self._HALVINGS):  # a + (w . u) tanh(a + b) grows with a, and is w . x at a = w . y
            middle = (low + high) / 2
            above = middle + along * torch.tanh(middle + b) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        bend = torch.tanh((low + high) / 2 + b)
        return x - u * bend[..., None], torch.log1p(along * (1 - bend * bend))


def _planar_start(dim: int, like: Tensor) -> Tensor:
    """A flow near the identity, each direction drawn at random so that no two layers bend alike."""
    direction = torch.randn(dim, dtype=like.dtype, device=like.device) / dim**0.5
    nothing = torch.zeros(dim, dtype=like.dtype, device=like.device)
    return torch.cat([nothing + 0.1 * direction.flip(0), direction, like.new_zeros(1)])


def row_flows(family: str, dim: int, count: int, hidden: int, width: int, like: Tensor) -> PyroModuleList:
    """Layers of one of :data:`ROW_FLOWS`, in turns forwards and backwards.

    Raises:
        GuideError: if a family that moves coordinates given others has one coordinate.
    """
    if family != "planar" and dim < 2:
        raise GuideError(
            f"posterior={family!r} moves latent variables of a row given others, and a row has {dim}. "
            'Fix: use posterior="planar" or "diagonal".'
        )
    if family == "planar":
        return PyroModuleList([Planar(dim, width, like=like) for _ in range(count)])
    kind = GatedAutoregressive if family == "iaf" else RowCoupling
    return PyroModuleList([kind(dim, hidden, width, reverse=i % 2 == 1, like=like) for i in range(count)])


@dataclass(frozen=True)
class Conditioned:
    """A diagonal affine map and then flows, for given data of the rows.

    Attributes:
        loc: locations, shape ``(b, d)``.
        scale: scales, same shape.
        context: what the encoder says of each row, shape ``(b, width)``.
        layers: the flows.
    """

    loc: Tensor
    scale: Tensor
    context: Tensor
    layers: Sequence[RowFlow]

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(..., b, d)`` to the image and the log determinant of the Jacobian, ``(..., b)``."""
        x, total = self.loc + self.scale * y, self.scale.log().sum(-1)
        for layer in self.layers:
            x, log_det = layer(x, self.context)
            total = total + log_det
        return x, total

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an image back: the preimage, and the forward log determinant there."""
        total = self.scale.log().sum(-1)
        for layer in reversed(self.layers):
            x, log_det = layer.inverse(x, self.context)
            total = total + log_det
        return (x - self.loc) / self.scale, total
