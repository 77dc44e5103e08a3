"""Inverse autoregressive flow over all latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import traits
from pyrolvm_guides._bijections import Affine, Bijection, Chain, InverseAutoregressive
from pyrolvm_guides._checks import at_least, hidden_sizes, positive, require_room
from pyrolvm_guides._frame import wants_frame
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._pushforward import PushForward
from pyrolvm_guides._reading import read_layout

__all__ = ["autoregressive"]

MAX_TRIANGULAR = 500


class _Autoregressive(JointGuide):
    def __init__(
        self, layout: Layout, init_scale: float, framed: Problem | None, transforms: int, hidden: Sequence[int]
    ) -> None:
        super().__init__("autoregressive", layout, init_scale, framed)
        dim, start = layout.size, self.start
        parts: list[Bijection] = []
        if dim > 1:
            for i in range(transforms):
                parts.append(InverseAutoregressive(dim, hidden, reverse=i % 2 == 1, like=start))
        parts.append(Affine(start, self.initial_scale, triangular=dim <= MAX_TRIANGULAR))
        self.chain = Chain(parts)

    def posterior(self) -> dist.TorchDistribution:
        return PushForward(self.chain, self.layout.size, self.start)


@traits(one_mode=True)
def autoregressive(
    problem: Problem,
    *,
    transforms: int = 2,
    hidden: Sequence[int] | None = None,
    init_scale: float = 0.1,
    precondition: str = "auto",
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""An inverse autoregressive flow: every variable is Gaussian given noise of those before it, several times over.

    .. math:: z = m + L\, f_K \circ \dots \circ f_1(\epsilon), \qquad
        f(y)_i = \mu_i(y_{<i}) + e^{a_i(y_{<i})} y_i, \qquad \epsilon \sim \mathrm{Normal}(0, I)

    :math:`\mu, a` come from masked networks, the order of the variables is reversed from one :math:`f` to the next, and
    :math:`L` is lower triangular (diagonal beyond 500 unknowns). With constant networks this is ``full_rank``; it
    starts as a Gaussian of scale ``init_scale``. Draws and their density take one pass. The density of a foreign value
    takes :math:`K d` passes.

    *It cannot represent* well-separated modes, tails heavier than a Gaussian's by more than a bounded factor, or, for
    one unknown, anything but a Gaussian (use ``flow``). It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        transforms: the number of layers :math:`K`.
        hidden: hidden layer sizes of each masked network; two layers of ``min(max(2 d, 16), 256)`` if not given.
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
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, https://arxiv.org/abs/1606.04934
    """
    scale = positive("init_scale", init_scale)
    count = at_least("transforms", transforms)
    sizes = None if hidden is None else hidden_sizes("hidden", hidden)
    layout = read_layout(problem, init=init)
    framed = problem if wants_frame(precondition, problem, init) else None
    if not layout.latents:
        return EmptyGuide("autoregressive")
    width = min(max(2 * layout.size, 16), 256)
    require_room("autoregressive", layout.size, sizes or (width, width), 2, count, layout.start.itemsize)
    return _Autoregressive(layout, scale, framed, count, sizes or (width, width))
