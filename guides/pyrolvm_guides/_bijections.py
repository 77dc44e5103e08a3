"""Bijections of the unconstrained vector, one pass from noise to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.nn import PyroModule
from pyro.nn.module import PyroModuleList
from torch import Tensor

from pyrolvm_guides._networks import Network, autoregressive_masks
from pyrolvm_guides._params import learnable, learnable_positive
from pyrolvm_guides._spline import rational_quadratic, rational_quadratic_inverse

__all__ = ["Affine", "Bijection", "Chain", "InverseAutoregressive", "Spline", "SplineAutoregressive", "SplineCoupling"]

_MAX_LOG_SCALE = 3.0


class Bijection(PyroModule):
    """A learnable bijection of real vectors of length ``d``."""

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(..., d)`` to the image ``(..., d)`` and the log determinant of the Jacobian, ``(...)``."""
        raise NotImplementedError

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an image back: the preimage ``(..., d)``, and the forward log determinant there, ``(...)``."""
        raise NotImplementedError


class Affine(Bijection):
    r""":math:`x = m + s \odot (T y)` with :math:`T` unit lower triangular, or the identity.

    Rows of :math:`T` are in units of :math:`s`, so that one learning rate suits parameters of any scale.

    Args:
        loc: the initial :math:`m`, shape ``(d,)``.
        scale: the initial :math:`s`.
        triangular: whether :math:`T` is learned.
    """

    def __init__(self, loc: Tensor, scale: float, *, triangular: bool) -> None:
        super().__init__()
        dim = len(loc)
        self.triangular = triangular and dim > 1
        self.loc = learnable(loc)
        self.scale = learnable_positive(torch.full_like(loc, scale))
        if self.triangular:
            self.tril = learnable(loc.new_zeros(dim, dim))
            self.register_buffer("lower", loc.new_ones(dim, dim).tril(-1))
            self.register_buffer("unit", torch.eye(dim, dtype=loc.dtype, device=loc.device))

    def unit_tril(self) -> Tensor:
        """The matrix :math:`T`, shape ``(d, d)``."""
        return self.tril * self.lower + self.unit

    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the image's covariance, shape ``(d, d)``."""
        return self.scale[:, None] * self.unit_tril() if self.triangular else torch.diag(self.scale)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale
        image = y @ self.unit_tril().mT if self.triangular else y
        return self.loc + scale * image, scale.log().sum().expand(y.shape[:-1])

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale
        y = (x - self.loc) / scale
        if self.triangular:
            y = torch.linalg.solve_triangular(self.unit_tril(), y[..., None], upper=False, unitriangular=True)[..., 0]
        return y, scale.log().sum().expand(x.shape[:-1])


class Chain(Bijection):
    """Bijections one after another.

    Args:
        parts: from noise to draw.
    """

    def __init__(self, parts: Sequence[Bijection]) -> None:
        super().__init__()
        self.parts = PyroModuleList(list(parts))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        total = y.new_zeros(y.shape[:-1])
        for part in self.parts:
            y, log_det = part(y)
            total = total + log_det
        return y, total

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[:-1])
        parts: list[Any] = list(self.parts)
        for part in reversed(parts):
            x, log_det = part.inverse(x)
            total = total + log_det
        return x, total


class InverseAutoregressive(Bijection):
    r""":math:`x_i = m_i(y_{<i}) + e^{a_i(y_{<i})} y_i`, with :math:`m, a` from one masked network; :math:`|a_i| < 3`.

    The forward pass is parallel. The inverse takes ``d`` passes; a guide needs it only to score foreign values.

    Args:
        dim: the number of coordinates.
        hidden: the sizes of the network's hidden layers.
        reverse: whether coordinates are taken in reverse order.
        like: a tensor whose dtype and device it takes.

    References:
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, https://arxiv.org/abs/1606.04934
    """

    def __init__(self, dim: int, hidden: Sequence[int], *, reverse: bool, like: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.reverse = reverse
        self.net = Network(dim, hidden, 2 * dim, like=like, masks=autoregressive_masks(dim, hidden, 2))

    def _shift_and_log_scale(self, y: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(y).reshape(*y.shape[:-1], self.dim, 2).unbind(-1)
        return shift, _softclip(raw)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.flip(-1) if self.reverse else y
        shift, log_scale = self._shift_and_log_scale(y)
        x = shift + log_scale.exp() * y
        return (x.flip(-1) if self.reverse else x), log_scale.sum(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(-1) if self.reverse else x
        y = x
        for _ in range(self.dim):  # after pass i the first i coordinates are exact
            shift, log_scale = self._shift_and_log_scale(y)
            y = (x - shift) * (-log_scale).exp()
        _, log_scale = self._shift_and_log_scale(y)
        return (y.flip(-1) if self.reverse else y), log_scale.sum(-1)


class SplineAutoregressive(Bijection):
    r""":math:`x_i = t_i(y_{<i}) + e^{a_i(y_{<i})} \, S_{\psi_i(y_{<i})}(y_i)` with one masked network.

    :math:`S` is a rational-quadratic spline on :math:`[-b, b]`, the identity outside; :math:`t, a, \psi` are outputs of
    the network and :math:`|a_i| < 3`. The forward pass is parallel. The inverse takes ``d`` passes; a guide needs it
    only to score foreign values.

    Args:
        dim: the number of coordinates, at least 2.
        bins: the number of spline bins.
        bound: the half width :math:`b`.
        hidden: the sizes of the network's hidden layers.
        reverse: whether coordinates are taken in reverse order.
        like: a tensor whose dtype and device it takes.

    References:
        Durkan et al., *Neural Spline Flows*, https://arxiv.org/abs/1906.04032
    """

    def __init__(
        self, dim: int, *, bins: int, bound: float, hidden: Sequence[int], reverse: bool, like: Tensor
    ) -> None:
        super().__init__()
        self.dim = dim
        self.bins = bins
        self.bound = bound
        self.reverse = reverse
        outputs = 3 * bins + 1
        masks = autoregressive_masks(dim, hidden, outputs)
        self.net = Network(dim, hidden, dim * outputs, like=like, slow=True, masks=masks)

    def _terms(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.net(y).reshape(*y.shape[:-1], self.dim, 3 * self.bins + 1)
        return raw[..., 0], _softclip(raw[..., 1]), raw[..., 2:]

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.flip(-1) if self.reverse else y
        shift, log_scale, shape = self._terms(y)
        bent, log_slope = rational_quadratic(y, shape, self.bins, self.bound)
        x = shift + log_scale.exp() * bent
        return (x.flip(-1) if self.reverse else x), (log_scale + log_slope).sum(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(-1) if self.reverse else x
        y = x
        total = x
        for _ in range(self.dim + 1):  # after pass i the first i coordinates are exact; the last pass is for the slopes
            shift, log_scale, shape = self._terms(y)
            bent = (x - shift) * (-log_scale).exp()
            y, log_slope = rational_quadratic_inverse(bent, shape, self.bins, self.bound)
            total = log_scale + log_slope
        return (y.flip(-1) if self.reverse else y), total.sum(-1)


class SplineCoupling(Bijection):
    r"""Half of the coordinates move by monotone splines whose shape the other half sets.

    With :math:`A` the kept half and :math:`B` the moved one,

    .. math:: x_A = S_\phi(y_A), \qquad x_B = t(y_A) + e^{a(y_A)} \, S_{\psi(y_A)}(y_B),

    where :math:`S` are elementwise rational-quadratic splines on :math:`[-b, b]`, the identity outside, and
    :math:`t, a, \psi` are outputs of one network. :math:`S_\phi` does not depend on other coordinates. Forward and
    inverse each take one pass.

    Args:
        kept: the indices of :math:`A`.
        moved: the indices of :math:`B`.
        bins: the number of spline bins.
        bound: the half width :math:`b`.
        hidden: the sizes of the network's hidden layers.
        like: a tensor whose dtype and device it takes.

    References:
        Durkan et al., *Neural Spline Flows*, https://arxiv.org/abs/1906.04032
    """

    def __init__(
        self, kept: Sequence[int], moved: Sequence[int], *, bins: int, bound: float, hidden: Sequence[int], like: Tensor
    ) -> None:
        super().__init__()
        self.bound = bound
        self.bins = bins
        self.n_moved = len(moved)
        order = torch.tensor([*kept, *moved], device=like.device)
        self.register_buffer("kept", order[: len(kept)])
        self.register_buffer("moved", order[len(kept) :])
        self.register_buffer("back", order.argsort())
        self.marginal = learnable(1e-3 * torch.randn(len(kept), 3 * bins - 1, dtype=like.dtype, device=like.device))
        self.net = Network(len(kept), hidden, len(moved) * (3 * bins + 1), like=like, slow=True)

    def _terms(self, y_kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.net(y_kept).reshape(*y_kept.shape[:-1], self.n_moved, 3 * self.bins + 1)
        return raw[..., 0], _softclip(raw[..., 1]), raw[..., 2:]

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y_kept, y_moved = y[..., self.kept], y[..., self.moved]
        shift, log_scale, shape = self._terms(y_kept)
        x_kept, log_kept = rational_quadratic(y_kept, self.marginal, self.bins, self.bound)
        bent, log_bent = rational_quadratic(y_moved, shape, self.bins, self.bound)
        x_moved = shift + log_scale.exp() * bent
        x = torch.cat([x_kept, x_moved], dim=-1)[..., self.back]
        return x, log_kept.sum(-1) + log_bent.sum(-1) + log_scale.sum(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y_kept, log_kept = rational_quadratic_inverse(x[..., self.kept], self.marginal, self.bins, self.bound)
        shift, log_scale, shape = self._terms(y_kept)
        bent = (x[..., self.moved] - shift) * (-log_scale).exp()
        y_moved, log_bent = rational_quadratic_inverse(bent, shape, self.bins, self.bound)
        y = torch.cat([y_kept, y_moved], dim=-1)[..., self.back]
        return y, log_kept.sum(-1) + log_bent.sum(-1) + log_scale.sum(-1)


class Spline(Bijection):
    """Every coordinate moves by a rational-quadratic spline of its own.

    Args:
        dim: the number of coordinates.
        bins: the number of spline bins.
        bound: the half width of the interval that bends.
        like: a tensor whose dtype and device it takes.
    """

    def __init__(self, dim: int, *, bins: int, bound: float, like: Tensor) -> None:
        super().__init__()
        self.bound = bound
        self.bins = bins
        self.shape = learnable(1e-3 * torch.randn(dim, 3 * bins - 1, dtype=like.dtype, device=like.device))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = rational_quadratic(y, self.shape, self.bins, self.bound)
        return x, log_slope.sum(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = rational_quadratic_inverse(x, self.shape, self.bins, self.bound)
        return y, log_slope.sum(-1)


def _softclip(raw: Tensor) -> Tensor:
    """Keeps a log scale within bounds that a Gaussian tail can bear, the identity near zero."""
    return _MAX_LOG_SCALE * torch.tanh(raw / _MAX_LOG_SCALE)
