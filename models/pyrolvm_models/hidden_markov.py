r"""Hidden Markov model: yearly counts of large earthquakes, in quiet and in busy times.

    initial      ~ Dirichlet(1, ..., 1)
    transition_k ~ Dirichlet(1, ..., 5, ..., 1)         k = 1..K states; the 5 stands at k: states last
    rate_k       ~ Gamma(4, 0.2)                        a mean of 20 a year
    z_1          ~ Categorical(initial)                 (discrete, local)
    z_t          ~ Categorical(transition[z_{t-1}])     t = 2..T years
    y_t          ~ Poisson(rate[z_t])

Graph: ``initial -> z_1 -> z_2 -> ...``, ``z_t -> y_t <- rate``, ``transition`` into every arrow between states.
The states are summed out by the forward algorithm, at a cost linear in T:

    a_1(k) = initial_k p(y_1 | k),   a_t(k) = p(y_t | k) sum_j a_{t-1}(j) transition_jk,   p(y) = sum_k a_T(k).

By default the sum is written into the model as the distribution :class:`PoissonChain`, a scan of log T vectorized
steps. ``marginal=False`` has a sample site ``z_t`` for each year under ``pyro.markov``, which is enumerated: the
same posterior, a graph that is T times as long.

What variational inference loses: labels switch as in a mixture, ``K!`` copies of each mode; a guide keeps one
copy. Within it the posterior is smooth, rates are nearly normal, and the probabilities of ``transition`` are
skewed, which a Gaussian in stick-breaking coordinates follows well: a full-rank guide is close. Mean-field
misses that a lower rate of the quiet state goes with a later switch. Compare ``quantities``, whose states are in
the order of their rates.

Data: earthquakes of magnitude 7 or more in the world, 1900-2006, from the catalogue of the U.S. Geological
Survey (public domain), as tabled by Zucchini and MacDonald (2009), table 1.1.

References:
    Zucchini, W., MacDonald, I. L. (2009). Hidden Markov Models for Time Series: An Introduction Using R.
        Chapman and Hall. https://doi.org/10.1201/9781420010893
    Baum, L. E., Petrie, T., Soules, G., Weiss, N. (1970). A maximization technique occurring in the statistical
        analysis of probabilistic functions of Markov chains. Annals of Mathematical Statistics 41, 164-171.
        https://doi.org/10.1214/aoms/1177697196
    Sarkka, S., Garcia-Fernandez, A. F. (2021). Temporal parallelization of Bayesian smoothers. IEEE Transactions
        on Automatic Control 66, 299-306. https://arxiv.org/abs/1905.13002
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]

FIRST_YEAR = 1900

EARTHQUAKES = [
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22, 19, 13, 26,
    13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34, 10, 15, 22, 18, 15, 20,
    15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6, 11, 8, 7, 18, 16, 13, 12, 13, 20, 15,
    16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
]  # fmt: skip
"""Earthquakes of magnitude 7 or more, a count for each year from 1900."""

YEARS = (1905, 1918, 1931, 1957, 1968, 1976)
"""Years for the quantity ``busiest``: around the times when the state seems to change."""


class PoissonChain(dist.TorchDistribution):
    """Counts over time under hidden states that are summed out.

    The transition matrices of all steps, with the emissions in them, are multiplied pairwise in log space: the cost is
    linear in the duration, in as many operations as it has doublings.

    Args:
        initial: Probabilities of the first state, shape ``(..., k)``.
        transition: Probabilities of the next state, rows sum to 1, shape ``(..., k, k)``.
        rate: Mean count in each state, positive, shape ``(..., k)``.
        duration: Number of counts ``t``, the event shape.
    """

    arg_constraints = {  # noqa: RUF012
        "initial": constraints.simplex,
        "transition": constraints.independent(constraints.simplex, 1),
        "rate": constraints.independent(constraints.positive, 1),
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False

    def __init__(
        self, initial: Tensor, transition: Tensor, rate: Tensor, duration: int, *, validate_args: bool | None = None
    ) -> None:
        self.initial, self.transition, self.rate = initial, transition, rate
        batch = torch.broadcast_shapes(initial.shape[:-1], transition.shape[:-2], rate.shape[:-1])
        super().__init__(batch, torch.Size([duration]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PoissonChain:
        """The same distribution for each element of a batch."""
        batch, k = torch.Size(batch_shape), self.rate.shape[-1]
        return PoissonChain(
            self.initial.expand(*batch, k),
            self.transition.expand(*batch, k, k),
            self.rate.expand(*batch, k),
            self.event_shape[0],
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts ``(..., t)``, shape ``(...)``."""
        emissions = dist.Poisson(self.rate.unsqueeze(-2), validate_args=False).log_prob(value.unsqueeze(-1))
        largest = emissions.detach().amax(-1, keepdim=True)  # kept out of the scan: there it would cost digits
        emissions = emissions - largest
        start = self.initial.log() + emissions[..., 0, :]
        steps = self.transition.log().unsqueeze(-3) + emissions[..., 1:, None, :]
        while steps.shape[-3] > 1:
            last = steps[..., -1:, :, :] if steps.shape[-3] % 2 else None
            pairs = steps.shape[-3] // 2 * 2
            left, right = steps[..., 0:pairs:2, :, :], steps[..., 1:pairs:2, :, :]
            steps = (left.unsqueeze(-1) + right.unsqueeze(-3)).logsumexp(-2)
            steps = steps if last is None else torch.cat([steps, last], -3)
        if steps.shape[-3]:
            start = (start.unsqueeze(-1) + steps.squeeze(-3)).logsumexp(-2)
        return start.logsumexp(-1) + largest.squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Counts of shape ``sample_shape + batch_shape + (t,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        wide = self.expand(shape)
        chances, counts = wide.initial, []
        for _ in range(self.event_shape[0]):
            state = dist.Categorical(chances).sample()
            chances = Vindex(wide.transition)[..., state, :]
            counts.append(dist.Poisson(Vindex(wide.rate)[..., state]).sample())
        return torch.stack(counts, -1)

    @torch.no_grad()
    def onward(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """A draw whose first counts are known, ``(..., t)``, and the log probability of those, ``(...)``.

        Args:
            known: The first counts, shape ``(..., s)`` with ``s <= t``.
        """
        emissions = dist.Poisson(self.rate.unsqueeze(-2), validate_args=False).log_prob(known.unsqueeze(-1))
        state = self.initial.log() + emissions[..., 0, :]
        for step in range(1, known.shape[-1]):
            state = (state.unsqueeze(-1) + self.transition.log()).logsumexp(-2) + emissions[..., step, :]
        chances = (state.softmax(-1).unsqueeze(-1) * self.transition).sum(-2)
        left = self.event_shape[0] - known.shape[-1]
        if not left:
            return known, state.logsumexp(-1)
        rest = PoissonChain(chances, self.transition, self.rate, left, validate_args=False)
        return torch.cat([known, rest.sample().to(known.dtype)], -1), state.logsumexp(-1)


def _emissions(counts: Tensor, draw: Draw) -> Tensor:
    """``log p(y_t | k)``, shape ``(t, k)``."""
    rate = draw["rate"]
    log_density: Tensor = dist.Poisson(rate).log_prob(counts.to(rate).unsqueeze(-1))
    return log_density


def _filtered(counts: Tensor, draw: Draw) -> list[Tensor]:
    """``log p(y_1..t, z_t = k)``, for each ``t`` a tensor ``(k,)``."""
    emissions, transition = _emissions(counts, draw), draw["transition"].log()
    forward = [draw["initial"].log() + emissions[0]]
    for emission in emissions[1:]:
        forward.append((forward[-1].unsqueeze(-1) + transition).logsumexp(-2) + emission)
    return forward


def log_likelihood(counts: Tensor, draw: Draw) -> Tensor:
    """Log probability of all counts by the forward algorithm, ``()``.

    Args:
        counts: Counts, shape ``(t,)``.
        draw: ``initial`` ``(k,)``, ``transition`` ``(k, k)``, rows sum to 1, and ``rate`` ``(k,)``.
    """
    return _filtered(counts, draw)[-1].logsumexp(-1)


def smoothed(counts: Tensor, draw: Draw) -> Tensor:
    """Probability of each state in each year given all counts, by the forward-backward algorithm.

    Args:
        counts: Counts, shape ``(t,)``.
        draw: As for :func:`log_likelihood`.

    Returns:
        ``p(z_t = k | y, draw)``, shape ``(t, k)``; rows sum to 1.
    """
    emissions, transition = _emissions(counts, draw), draw["transition"].log()
    backward = [torch.zeros_like(emissions[0])]
    for emission in emissions[1:].flip(0):
        backward.append((transition + emission + backward[-1]).logsumexp(-1))
    return (torch.stack(_filtered(counts, draw)) + torch.stack(backward[::-1])).softmax(-1)


def in_order(site: str, draw: Draw) -> Tensor:
    """A site with its states in the order of their rates.

    Args:
        site: ``"initial"``, ``"rate"`` or ``"transition"``, of which both axes are put in order.
        draw: One draw of the sites.
    """
    order = draw["rate"].argsort()
    value = draw[site].index_select(0, order)
    return value.index_select(1, order) if value.dim() == 2 else value


def busiest(counts: Tensor, years: Sequence[int], draw: Draw) -> Tensor:
    """Probability of the state of the highest rate in some years, given all counts, shape ``(years,)``."""
    rows = torch.tensor([year - FIRST_YEAR for year in years], device=counts.device)
    state = draw["rate"].argmax().unsqueeze(-1)
    return smoothed(counts, draw)[rows].index_select(-1, state).squeeze(-1)


def hidden_markov(*, states: int = 2, marginal: bool = True, years: int | None = None) -> lvm.Problem:
    """Counts of large earthquakes under a hidden Markov model, compared through functions that ignore labels.

    Args:
        states: Number of states ``K``, from 1 to 10.
        marginal: Sum the states out in the model; otherwise they are sample sites ``z_0``, ``z_1``, ..., which are enumerated:
            minutes of compilation for all years.
        years: Use only the first so many of the 107 years; all by default.

    Returns:
        The problem; its ``quantities`` are the ordered ``rates``, ``persistence`` (the probabilities of staying) and
        ``start``, the probability ``busiest`` of the busiest state in a few years, and ``log_lik``.

    Raises:
        ArgumentError: ``states`` is not an integer from 1 to 10, or ``years`` not one from 1 to 107.
    """
    k = _data.check_count("hidden_markov", "states", states, 10)
    n = len(EARTHQUAKES) if years is None else _data.check_count("hidden_markov", "years", years, len(EARTHQUAKES))
    counts = torch.tensor(EARTHQUAKES[:n], dtype=torch.float64)
    when = [year for year in YEARS if year < FIRST_YEAR + n]
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "rates": partial(in_order, "rate"),
        "persistence": lambda draw: in_order("transition", draw).diagonal(),
        "start": partial(in_order, "initial"),
        "log_lik": partial(log_likelihood, counts),
    }
    dims = {
        "initial": ["state"],
        "transition": ["state", "next"],
        "rate": ["state"],
        "rates": ["rank"],
        "persistence": ["rank"],
        "start": ["rank"],
    }
    coords = {"state": list(range(k)), "next": list(range(k)), "rank": list(range(k))}
    if when:
        quantities["busiest"] = partial(busiest, counts, when)
        dims["busiest"], coords["when"] = ["when"], when
    if marginal:
        dims["y"], coords["year"] = ["year"], list(range(FIRST_YEAR, FIRST_YEAR + n))

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def earthquakes(y: Tensor) -> None:
        """Poisson counts ``y`` ``(t,)`` whose rate is that of a hidden state which changes from year to year."""
        initial = pyro.sample("initial", dist.Dirichlet(y.new_ones(k)))
        transition = pyro.sample("transition", dist.Dirichlet(1 + 4 * torch.eye(k).to(y)).to_event(1))
        rate = pyro.sample("rate", dist.Gamma(4.0, 0.2).expand([k]).to_event(1))
        if marginal:
            pyro.sample("y", PoissonChain(initial, transition, rate, len(y)), obs=y)
            return
        chances = initial
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(chances), infer={"enumerate": "parallel"})
            chances = Vindex(transition)[..., z, :]
            pyro.sample(f"y_{t}", dist.Poisson(Vindex(rate)[..., z]), obs=y[t])

    return lvm.Problem(earthquakes, counts.float())
