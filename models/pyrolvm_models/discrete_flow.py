r"""Discrete flows: whole numbers as the image of independent ones under a bijection that networks compute.

    u_nj ~ Categorical(w_j)                                     j = 1..d, independent, levels 0..K-1
    x_n  = f(u_n),    each layer of f:  y_j = (u_j + m_j) mod K

A bijection of a finite set only renames its elements, so that log p(x) = log p(u) without a determinant. Its layers shift numbers by a
whole number that a network reads off others:

- ``kind="autoregressive"``: :math:`m_j` of the numbers before :math:`j`, in turns from the front and from the back. Densities take one
  pass a layer, draws ``d`` of them.
- ``kind="bipartite"``: one half of the numbers is shifted by what the other half says, every other number in turns. Densities and draws
  take one pass a layer.

What is lost: shifts move probability and cannot spread it. Given what a layer sees, a number's distribution keeps the shape of its
base, and only its place changes; ``made``, which learns every conditional by itself, is the comparison. The shift is the largest of K
logits, whose gradient is taken as that of a softmax (straight through), which is biased. Where most numbers have one common level, as
grey levels of digits have, not to shift at all is an optimum that is hard to leave.

There are no latents: ``lvm.fit`` maximises the likelihood. ``lvm.compress`` codes the base.

Data: as of :mod:`pyrolvm_models.autoregressive`, or the text of :mod:`pyrolvm_models.sequences`.

References:
    Tran, D., Vafa, K., Agrawal, K. K., Dinh, L., Poole, B. (2019). Discrete flows: invertible generative models of discrete data.
        NeurIPS. https://arxiv.org/abs/1905.10347
    Hoogeboom, E., Peters, J. W. T., van den Berg, R., Welling, M. (2019). Integer discrete flows and lossless compression. NeurIPS.
        https://arxiv.org/abs/1905.07376
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images, datasets, sequences
from pyrolvm_models._nets import dense
from pyrolvm_models.autoregressive import Made, image_data
from pyrolvm_models.likelihoods import density_problem

__all__ = ["DiscreteFlow", "discrete_flow"]

Bijection = Callable[[Tensor], Tensor]

KINDS = ("autoregressive", "bipartite")

STILL = 2.0
"""The logit of no shift at first, so that a flow begins as its base: elsewhere shifts begin at random, and many steps undo them."""


class DiscreteFlow(nn.Module):
    """A bijection of rows of ``numbers`` whole numbers from 0 to ``levels - 1``, and independent ones under it.

    Args:
        numbers: of a row, at least 2.
        levels: values of a number, at least 2.
        kind: ``"autoregressive"`` or ``"bipartite"``.
        layers: of the bijection.
        hidden: units of each layer's network.
        generator: source of the initial weights of bipartite layers; those of autoregressive ones are torch's.
        shares: of each level in the data, number by number, ``(numbers, levels)``: where the base begins.
    """

    base: Tensor
    moved: Tensor
    turn: Tensor
    values: Tensor
    still: Tensor

    def __init__(
        self,
        numbers: int,
        levels: int,
        *,
        kind: str,
        layers: int,
        hidden: int,
        generator: torch.Generator,
        shares: Tensor,
    ) -> None:
        super().__init__()
        self.numbers, self.levels, self.autoregressive = numbers, levels, kind == "autoregressive"
        self.base = nn.Parameter(shares.log().to(torch.get_default_dtype()))
        networks: list[nn.Module] = [
            Made(numbers, levels, hidden=hidden, layers=1)
            if self.autoregressive
            else dense(numbers, [hidden], numbers * levels, generator, gain=0.1)
            for _ in range(layers)
        ]
        self.networks = nn.ModuleList(networks)
        self.register_buffer("still", torch.cat([torch.full((1,), STILL), torch.zeros(levels - 1)]))
        every_other = (torch.arange(layers)[:, None] + torch.arange(numbers)) % 2 == 1
        self.register_buffer("moved", every_other | self.autoregressive)
        steps = torch.arange(levels)
        self.register_buffer("turn", (steps[:, None] + steps) % levels)
        self.register_buffer("values", steps.to(torch.get_default_dtype()))

    def _logits(self, i: int, level: Tensor) -> Tensor:
        """Logits of the shift of each number in layer ``i``, ``(n, d, levels)``, read off levels ``(n, d)`` that it does not move."""
        network: Any = self.networks[i]
        if self.autoregressive:
            logits: Tensor = network.logits(level)
            return self.still + (
                F.pad(logits, (1, 0)) if self.levels == 2 else logits
            )  # Made has one logit of binary numbers
        seen = torch.where(self.moved[i], torch.zeros_like(level), 2 * level / (self.levels - 1) - 1)
        out: Tensor = network(seen)
        return self.still + out.unflatten(-1, (self.numbers, self.levels))

    def _turned(self, i: int, x: Tensor, dim: int) -> Tensor:
        """Numbers in the order in which layer ``i`` reads them, or back."""
        return x.flip(dim) if self.autoregressive and i % 2 else x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities of rows ``(n, d)``, shape ``(n,)``."""
        hot = F.one_hot(x.long(), self.levels).to(self.base)
        for i, moved in enumerate(self.moved):
            hot = self._turned(i, hot, -2)
            logits = self._logits(i, hot @ self.values)
            soft = logits.softmax(-1)
            shift = F.one_hot(logits.argmax(-1), self.levels).to(soft) + soft - soft.detach()
            back = (hot[..., self.turn] * shift.unsqueeze(-2)).sum(-1)  # u_k = sum of y_(k + j) over shifts j
            hot = self._turned(i, torch.where(moved[:, None], back, hot), -2)
        return (hot * self.base.log_softmax(-1)).sum((-1, -2))

    @torch.no_grad()
    def to_base(self, x: Tensor) -> Tensor:
        """The independent numbers ``(n, d)`` that rows ``(n, d)`` are the image of, int64."""
        u = x.long()
        for i, moved in enumerate(self.moved):
            u = self._turned(i, u, -1)
            shift = self._logits(i, u.to(self.base)).argmax(-1)
            u = self._turned(i, torch.where(moved, (u - shift) % self.levels, u), -1)
        return u

    @torch.no_grad()
    def from_base(self, u: Tensor) -> Tensor:
        """The rows ``(n, d)`` that are the image of independent numbers ``(n, d)``, int64."""
        x = u.long()
        for i in reversed(range(len(self.networks))):
            x = self._turned(i, x, -1)
            if self.autoregressive:
                given, x = x, torch.zeros_like(x)
                for j in range(self.numbers):
                    shift = self._logits(i, x.to(self.base))[:, j].argmax(-1)
                    x[:, j] = (given[:, j] + shift) % self.levels
            else:
                shift = self._logits(i, x.to(self.base)).argmax(-1)
                x = torch.where(self.moved[i], (x + shift) % self.levels, x)
            x = self._turned(i, x, -1)
        return x

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """New rows ``(count, d)``."""
        drawn = dist.Categorical(logits=self.base).sample(torch.Size([count]))
        return self.from_base(drawn).to(self.base)

    def in_base(self, count: int) -> tuple[dist.TorchDistribution, Bijection, Bijection]:
        """The law of ``count`` rows of independent numbers, and the maps of rows to them and back: by which rows are coded."""
        law = dist.Categorical(logits=self.base.expand(count, -1, -1), validate_args=False)
        return law, self.to_base, self.from_base


def discrete_flow(
    *,
    kind: str = "autoregressive",
    layers: int = 2,
    hidden: int = 128,
    data: str = "binary_digits",
    length: int = 32,
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """A discrete flow.

    Args:
        kind: ``"autoregressive"`` or ``"bipartite"``.
        layers: of the bijection; a bipartite one needs 2 to move all numbers.
        hidden: units of each layer's network.
        data: ``"digits"``, ``"binary_digits"``, ``"binarized_mnist"``, or ``"text"``.
        length: characters of a line of text.
        images: only the first so many images or lines; all of the training part by default.
        seed: of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
    """
    owner = "discrete_flow"
    _images.choose(owner, "kind", kind, KINDS)
    _images.choose(owner, "data", data, ("digits", "binary_digits", "binarized_mnist", "text"))
    for option, count in (("layers", layers), ("hidden", hidden)):
        _data.check_count(owner, option, count)
    if data == "text":
        x, levels = (
            sequences.text_data("descriptions", length, images).to(torch.get_default_dtype()),
            len(datasets.ALPHABET),
        )
    else:
        x, _, _, levels = image_data(data, images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        counts = F.one_hot(x.long(), levels).sum(0) + 0.5
        flow = DiscreteFlow(
            x.shape[1], levels, kind=kind, layers=layers, hidden=hidden, generator=generator,
            shares=counts / counts.sum(-1, keepdim=True),
        )  # fmt: skip
    return density_problem(x, flow, support=constraints.integer_interval(0, levels - 1))
