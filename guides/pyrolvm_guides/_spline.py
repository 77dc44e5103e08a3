"""Monotone rational-quadratic splines with linear tails."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rational_quadratic", "rational_quadratic_inverse"]

_MIN_BIN = 1e-3
_MIN_SLOPE = 1e-3


def rational_quadratic(y: Tensor, raw: Tensor, bins: int, bound: float) -> tuple[Tensor, Tensor]:
    r"""A monotone spline on :math:`[-b, b]`, the identity outside.

    In a bin from :math:`(y_0, x_0)` to :math:`(y_1, x_1)` with end slopes :math:`d_0, d_1`, mean slope :math:`s` and
    :math:`\xi = (y - y_0)/(y_1 - y_0)`,

    .. math:: x = x_0 + (x_1 - x_0) \frac{s \xi^2 + d_0 \xi (1 - \xi)}{s + (d_0 + d_1 - 2 s) \xi (1 - \xi)}.

    Zero parameters give the identity. Only sums and comparisons choose the bin, so the function works under
    ``torch.func.vmap`` and in traced graphs.

    Args:
        y: arguments, shape ``(...)``.
        raw: parameters, shape ``(..., 3 * bins - 1)``: log widths, log heights, inner log slopes.
        bins: the number of bins :math:`K`.
        bound: the half width :math:`b`.

    Returns:
        The image and the log slope, both of shape ``(...)``.

    References:
        Gregory and Delbourgo, *Piecewise Rational Quadratic Interpolation to Monotonic Data*, IMA Journal of
        Numerical Analysis 2, 1982;
        Durkan et al., *Neural Spline Flows*, https://arxiv.org/abs/1906.04032
    """
    knots_y, knots_x, slopes = _knots(raw, bins, bound)
    within = (y >= -bound) & (y <= bound)
    inner = y.clamp(-bound, bound)
    y0, width, x0, height, d0, d1 = _bin(inner, knots_y, knots_y, knots_x, slopes)
    slope = height / width
    xi = (inner - y0) / width
    bump = xi * (1 - xi)
    below = slope + (d0 + d1 - 2 * slope) * bump
    image = x0 + height * (slope * xi * xi + d0 * bump) / below
    return torch.where(within, image, y), torch.where(within, _log_slope(slope, d0, d1, xi, below), torch.zeros_like(y))


def rational_quadratic_inverse(x: Tensor, raw: Tensor, bins: int, bound: float) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`rational_quadratic`, with the log slope of the forward map at the preimage.

    Args:
        x: images, shape ``(...)``.
        raw: parameters, shape ``(..., 3 * bins - 1)``.
        bins: the number of bins.
        bound: the half width.

    Returns:
        The preimage and the forward log slope, both of shape ``(...)``.
    """
    knots_y, knots_x, slopes = _knots(raw, bins, bound)
    within = (x >= -bound) & (x <= bound)
    inner = x.clamp(-bound, bound)
    y0, width, x0, height, d0, d1 = _bin(inner, knots_x, knots_y, knots_x, slopes)
    slope = height / width
    rise = inner - x0
    bend = rise * (d0 + d1 - 2 * slope)
    a = height * (slope - d0) + bend
    b = height * d0 - bend
    c = -slope * rise
    xi = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0.0).sqrt())
    below = slope + (d0 + d1 - 2 * slope) * xi * (1 - xi)
    preimage = y0 + width * xi
    return torch.where(within, preimage, x), torch.where(
        within, _log_slope(slope, d0, d1, xi, below), torch.zeros_like(x)
    )


def _log_slope(slope: Tensor, d0: Tensor, d1: Tensor, xi: Tensor, below: Tensor) -> Tensor:
    rest = 1 - xi
    return 2 * (slope.log() - below.log()) + (d1 * xi * xi + 2 * slope * xi * rest + d0 * rest * rest).log()


def _knots(raw: Tensor, bins: int, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Knot positions before and after the map, and slopes at the knots, each of shape ``(..., bins + 1)``."""
    one = torch.ones_like(raw[..., :1])
    inner = _MIN_SLOPE + (1 - _MIN_SLOPE) * raw[..., 2 * bins :].exp()
    slopes = torch.cat([one, inner, one], dim=-1)
    return _positions(raw[..., :bins], bins, bound), _positions(raw[..., bins : 2 * bins], bins, bound), slopes


def _positions(raw: Tensor, bins: int, bound: float) -> Tensor:
    widths = _MIN_BIN + (1 - _MIN_BIN * bins) * raw.softmax(dim=-1)
    inner = 2 * bound * widths[..., :-1].cumsum(dim=-1) - bound
    edge = torch.full_like(raw[..., :1], bound)
    return torch.cat([-edge, inner, edge], dim=-1)


def _bin(value: Tensor, edges: Tensor, knots_y: Tensor, knots_x: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    """Picks the bin that holds ``value`` among ``edges``: its origin, extent, end slopes."""
    above = (value[..., None] >= edges[..., 1:-1]).to(value.dtype)
    one, zero = torch.ones_like(value[..., None]), torch.zeros_like(value[..., None])
    chosen = torch.cat([one, above], dim=-1) - torch.cat([above, zero], dim=-1)

    def pick(values: Tensor) -> Tensor:
        return (chosen * values).sum(dim=-1)

    y0, y1 = pick(knots_y[..., :-1]), pick(knots_y[..., 1:])
    x0, x1 = pick(knots_x[..., :-1]), pick(knots_x[..., 1:])
    return y0, y1 - y0, x0, x1 - x0, pick(slopes[..., :-1]), pick(slopes[..., 1:])
