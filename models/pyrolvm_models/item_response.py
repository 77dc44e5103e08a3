r"""Item response: which of 1,000 people solve five questions, by how able they are and how each question tells.

    discrimination_j ~ LogNormal(0, 0.5)                               j = 1..5 items; one for all with ``rasch=True``
    easiness_j       ~ Normal(0, 2)
    ability_i        ~ Normal(0, 1)                                    i = 1..1000 people (local)
    y_ij             ~ Bernoulli(logit = discrimination_j ability_i + easiness_j)

Graph: ``ability_i -> y_ij <- discrimination_j, easiness_j`` with plates over people and items. An item has the probability of a half
at the ability ``-easiness / discrimination``, its difficulty. With five items only 32 patterns of answers are possible, and the
abilities can be integrated out: by default each person's pattern is one of 32,

    p(y) = int Normal(a; 0, 1) prod_j p(y_j | a) da  =  sum_q weight_q prod_j p(y_j | node_q)

with evenly spaced nodes, for which the error falls exponentially with their
number: below 1e-6 nats a pattern for discriminations up to 4. ``marginal=False`` has ``ability`` as a site, in a plate
that can be taken in minibatches: the same posterior of the items.

What variational inference loses: little with the abilities integrated out: 10 unknowns, of which each discrimination is
correlated with its easiness, which mean-field misses; an easy item's ``difficulty`` is a ratio with a long tail. With the
abilities as sites five answers say little about each of a thousand, and all of them depend on the discriminations: mean-field,
which takes them for independent, makes the sds of the discriminations too small.

Data: Law School Admission Test, section VI, from Bock and Lieberman (1970), table 1: facts from a publication.

References:
    Bock, R. D., Lieberman, M. (1970). Fitting a response model for n dichotomously scored items. Psychometrika 35, 179-197.
        https://doi.org/10.1007/BF02291262
    Bock, R. D., Aitkin, M. (1981). Marginal maximum likelihood estimation of item parameters: application of an EM
        algorithm. Psychometrika 46, 443-459. https://doi.org/10.1007/BF02293801
    Rizopoulos, D. (2006). ltm: an R package for latent variable modeling and item response theory analyses. Journal of
        Statistical Software 17(5). https://doi.org/10.18637/jss.v017.i05
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

Draw = Mapping[str, Tensor]

COUNTS = [
    3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15, 10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298,
]  # fmt: skip
"""People with each pattern of answers, from 00000 to 11111, the first item first."""

PATTERNS = list(itertools.product((0.0, 1.0), repeat=5))
"""Right (1) and wrong (0) answers, in the order of ``COUNTS``."""

NODES, REACH = 71, 7.0
"""Nodes of the quadrature over an ability, and how far out they go, in sds."""


def _rule(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and log weights of the standard normal, ``(nodes,)`` each."""
    half = NODES // 2
    nodes = (torch.arange(-half, half + 1) * (REACH / half)).to(
        like
    )  # with an exact zero: large discriminations multiply it
    return nodes, (-0.5 * nodes.square()).log_softmax(0)


def _log_joint(patterns: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """``log weight_q + log p(pattern | node_q)``, shape ``(..., patterns, nodes)``, and the nodes."""
    nodes, log_weights = _rule(draw["easiness"])
    logits = draw["discrimination"].unsqueeze(-1) * nodes + draw["easiness"].unsqueeze(-1)
    right, wrong = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    given = patterns.to(logits)  # of both answers, so that no large numbers cancel
    return given @ right + (1 - given) @ wrong + log_weights, nodes


def log_probability(patterns: Tensor, draw: Draw) -> Tensor:
    """Log probability of patterns of answers, the ability integrated out.

    Args:
        patterns: Right (1) and wrong (0) answers, shape ``(n, items)``.
        draw: ``discrimination`` and ``easiness``, each ``(..., items)``.

    Returns:
        Shape ``(..., n)``, in nats.
    """
    return _log_joint(patterns, draw)[0].logsumexp(-1)


def expected_ability(patterns: Tensor, draw: Draw) -> Tensor:
    """Mean of the ability of somebody with a pattern of answers, given the items, shape ``(..., n)``.

    Args:
        patterns: Right (1) and wrong (0) answers, shape ``(n, items)``.
        draw: As for :func:`log_probability`.
    """
    joint, nodes = _log_joint(patterns, draw)
    return (joint.softmax(-1) * nodes).sum(-1)


def difficulty(draw: Draw) -> Tensor:
    """The ability at which an item is solved with probability a half, shape ``(items,)``."""
    return -draw["easiness"] / draw["discrimination"]


def answers() -> Tensor:
    """All answers, a row for each person, shape ``(1000, 5)``, double precision."""
    return torch.tensor(PATTERNS, dtype=torch.float64).repeat_interleave(torch.tensor(COUNTS), 0)


def item_response(*, rasch: bool = False, marginal: bool = True) -> lvm.Problem:
    """Section VI of the Law School Admission Test.

    Args:
        rasch: One discrimination for all items (Rasch's model) instead of one for each (2PL).
        marginal: Integrate the abilities out in the model; otherwise they are sites, with the same posterior of the items.

    Returns:
        The problem; its ``quantities`` are ``difficulty``, ``tells``, the discriminations, and ``ability``, the expected ability of
        those who solve none, the first one, ..., all items.
    """
    steps = torch.ones(6, 5).tril(-1)
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "difficulty": difficulty,
        "tells": lambda draw: draw["discrimination"],
        "ability_of": partial(expected_ability, steps),
    }
    items = [f"item {j + 1}" for j in range(5)]
    dims = {"discrimination": [] if rasch else ["item"], "tells": [] if rasch else ["item"]}
    dims |= {"easiness": ["item"], "difficulty": ["item"], "ability_of": ["solved"]}
    dims |= {} if marginal else {"ability": ["person"], "y": ["person", "item"]}
    coords: dict[str, list[str] | list[int]] = {"item": items, "solved": list(range(6))}

    def sample_items(like: Tensor) -> dict[str, Tensor]:
        tells = dist.LogNormal(0.0, 0.5)
        discrimination = pyro.sample("discrimination", tells if rasch else tells.expand([5]).to_event(1))
        easiness = pyro.sample("easiness", dist.Normal(0.0, 2.0).expand([5]).to_event(1))
        if rasch:
            discrimination = discrimination.unsqueeze(-1).expand(*discrimination.shape, 5)
        return {"discrimination": discrimination, "easiness": easiness}

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def chosen(patterns: Tensor, y: Tensor) -> None:
        """Which of the ``patterns`` ``(32, 5)`` of answers each person gave, ``y`` ``(people,)``."""
        log_p = log_probability(patterns, sample_items(patterns))
        with pyro.plate("person", len(y)):
            pyro.sample("y", dist.Categorical(logits=log_p), obs=y)

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def answered(y: Tensor) -> None:
        """Right (1) and wrong (0) answers ``y`` ``(people, items)``."""
        draw = sample_items(y)
        with pyro.plate("person", len(y)):
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
            logits = draw["discrimination"] * ability.unsqueeze(-1) + draw["easiness"]
            pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    if marginal:
        return lvm.Problem(chosen, PATTERNS, torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS)))
    return lvm.Problem(answered, answers())
