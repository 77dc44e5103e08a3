"""Neural spline flow over all latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import traits
from pyrolvm_guides._bijections import Affine, Bijection, Chain, Spline, SplineAutoregressive, SplineCoupling
from pyrolvm_guides._checks import at_least, degrees, hidden_sizes, positive, require_room
from pyrolvm_guides._frame import wants_frame
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._pushforward import PushForward
from pyrolvm_guides._reading import read_layout

__all__ = ["flow"]

MAX_TRIANGULAR = 500


class _Flow(JointGuide):
    def __init__(
        self, layout: Layout, init_scale: float, framed: Problem | None, bends: Sequence[Bijection], tails: int | None
    ) -> None:
        super().__init__("flow", layout, init_scale, framed)
        self.tails = tails
        affine = Affine(self.start, self.initial_scale, triangular=layout.size <= MAX_TRIANGULAR)
        self.chain = Chain([*bends, affine])

    def posterior(self) -> dist.TorchDistribution:
        return PushForward(self.chain, self.layout.size, self.start, self.tails)


def _halves(dim: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Splits coordinates in two, first half against second, then even against odd, each both ways."""
    first, second = list(range((dim + 1) // 2)), list(range((dim + 1) // 2, dim))
    even, odd = list(range(0, dim, 2)), list(range(1, dim, 2))
    cycle = [(first, second), (second, first), (even, odd), (odd, even)]
    return [cycle[i % 4] for i in range(count)]


@traits(one_mode=True)
def flow(
    problem: Problem,
    *,
    transforms: int | None = None,
    bins: int = 8,
    bound: float = 5.0,
    hidden: Sequence[int] | None = None,
    coupling: bool = False,
    tails: int | None = None,
    init_scale: float = 0.1,
    precondition: str = "auto",
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""A neural spline flow: noise bent by monotone splines that depend on each other, then a full-rank affine map.

    .. math:: z = m + L\, f_K \circ \dots \circ f_1(\epsilon), \qquad
        f(y)_i = t_i(y_{<i}) + e^{a_i(y_{<i})} S_{\psi_i(y_{<i})}(y_i), \qquad \epsilon \sim \mathrm{Normal}(0, I)

    :math:`S` is a rational-quadratic spline, :math:`t, a, \psi` come from one masked network for each :math:`f`, the
    order of the variables is reversed from one to the next, and :math:`L` is lower triangular (diagonal beyond 500
    unknowns). With identity splines this is ``full_rank``; it starts as a Gaussian of scale ``init_scale``. Draws and
    their density take one pass; the density of a foreign value takes :math:`K d` passes, or one pass if ``coupling``,
    where every :math:`f` moves one half of the variables given the other half.

    *It cannot represent* tails heavier than its noise's by more than a bounded factor (``tails`` makes that a Student t), and it joins
    well-separated modes by thin bridges. It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        transforms: the number of layers :math:`K`; 2 if not given, 4 if ``coupling``.
        bins: spline bins for each coordinate.
        bound: splines bend within ``[-bound, bound]`` of standard normal noise.
        hidden: hidden layer sizes of each network; two layers of ``min(max(2 d, 32), 256)`` if not given.
        coupling: whether layers are couplings, which train more slowly but score foreign values in one pass.
        tails: degrees of freedom of the noise, 1 to 30, so that importance weights of posteriors with heavy tails stay bounded;
            ``None`` for normal noise.
        init_scale: the initial standard deviation in every direction.
        precondition: ``"frame"`` trains in coordinates in which the posterior is nearly standard normal, found by ascents and
            natural gradients before the first step; ``"none"`` in plain unconstrained space; ``"auto"`` takes the frame up to
            500 unknowns (that of a sample of rows beyond 50,000 observed numbers), unless ``init`` says where to start or the
            model has parameters.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Durkan et al., *Neural Spline Flows*, https://arxiv.org/abs/1906.04032;
        Jaini et al., *Tails of Lipschitz Triangular Flows*, https://arxiv.org/abs/1907.04481;
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, https://arxiv.org/abs/1606.04934
    """
    scale = positive("init_scale", init_scale)
    count = at_least("transforms", (4 if coupling else 2) if transforms is None else transforms)
    half_width = positive("bound", bound)
    n_bins = at_least("bins", bins, 2)
    freedom = degrees(tails)
    sizes = None if hidden is None else hidden_sizes("hidden", hidden)
    layout = read_layout(problem, init=init)
    framed = problem if wants_frame(precondition, problem, init) else None
    if not layout.latents:
        return EmptyGuide("flow")
    dim, width = layout.size, min(max(2 * layout.size, 32), 256)
    shape: dict[str, Any] = {"bins": n_bins, "bound": half_width, "like": layout.start}
    bends: list[Bijection]
    require_room("flow", dim, sizes or (width, width), 3 * n_bins - 1, 1 if coupling else count, layout.start.itemsize)
    if dim == 1:
        bends = [Spline(1, **shape)]
    elif coupling:
        shape["hidden"] = sizes or (width, width)
        bends = [SplineCoupling(kept, moved, **shape) for kept, moved in _halves(dim, count)]
    else:
        shape["hidden"] = sizes or (width, width)
        bends = [SplineAutoregressive(dim, reverse=i % 2 == 1, **shape) for i in range(count)]
    return _Flow(layout, scale, framed, bends, freedom)
