"""Neural spline flow over all latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm_guides._bijections import Affine, Bijection, Chain, Spline, SplineCoupling
from pyrolvm_guides._checks import at_least, hidden_sizes, positive
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._pushforward import PushForward
from pyrolvm_guides._reading import read_layout

__all__ = ["flow"]

MAX_TRIANGULAR = 500


class _Flow(JointGuide):
    def __init__(
        self, layout: Layout, init_scale: float, transforms: int, bins: int, bound: float, hidden: Sequence[int]
    ) -> None:
        super().__init__("flow", layout)
        dim, start = layout.size, layout.start
        parts: list[Bijection] = []
        if dim == 1:
            parts.append(Spline(1, bins=bins, bound=bound, like=start))
        else:
            for kept, moved in _halves(dim, transforms):
                parts.append(SplineCoupling(kept, moved, bins=bins, bound=bound, hidden=hidden, like=start))
        parts.append(Affine(start, init_scale, triangular=dim <= MAX_TRIANGULAR))
        self.chain = Chain(parts)

    def posterior(self) -> dist.TorchDistribution:
        return PushForward(self.chain, self.layout.size, self.layout.start)


def _halves(dim: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Splits coordinates in two, first half against second, then even against odd, each both ways."""
    first, second = list(range((dim + 1) // 2)), list(range((dim + 1) // 2, dim))
    even, odd = list(range(0, dim, 2)), list(range(1, dim, 2))
    cycle = [(first, second), (second, first), (even, odd), (odd, even)]
    return [cycle[i % 4] for i in range(count)]


def flow(
    problem: Problem,
    *,
    transforms: int = 3,
    bins: int = 8,
    bound: float = 5.0,
    hidden: Sequence[int] | None = None,
    init_scale: float = 0.1,
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""A neural spline flow: noise bent by coupled monotone splines, then a full-rank affine map.

    .. math:: z = m + L\, f_K \circ \dots \circ f_1(\epsilon), \qquad \epsilon \sim \mathrm{Normal}(0, I),

    where every :math:`f` moves half of the coordinates by a rational-quadratic spline, a scale and a shift that a
    network computes from the other half, and the other half by splines of its own
    (:class:`~pyrolvm_guides._bijections.SplineCoupling`). :math:`L` is lower triangular (diagonal beyond 500
    unknowns). With identity splines this is ``full_rank``; it starts as a Gaussian of scale ``init_scale``. Draws and
    densities, its own and those of foreign values, take one pass.

    *It cannot represent* tails heavier than a Gaussian's by more than a bounded factor, and it joins well-separated
    modes by thin bridges. It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        transforms: the number of layers :math:`K`.
        bins: spline bins for each coordinate.
        bound: splines bend within ``[-bound, bound]`` of standard normal noise.
        hidden: hidden layer sizes of each network; two layers of ``min(max(2 d, 32), 256)`` if not given.
        init_scale: the initial standard deviation in every direction.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Durkan et al., *Neural Spline Flows*, https://arxiv.org/abs/1906.04032
    """
    scale = positive("init_scale", init_scale)
    count = at_least("transforms", transforms)
    n_bins = at_least("bins", bins, 2)
    half_width = positive("bound", bound)
    sizes = None if hidden is None else hidden_sizes("hidden", hidden)
    layout = read_layout(problem, init=init)
    if not layout.latents:
        return EmptyGuide("flow")
    width = min(max(2 * layout.size, 32), 256)
    return _Flow(layout, scale, count, n_bins, half_width, sizes or (width, width))
