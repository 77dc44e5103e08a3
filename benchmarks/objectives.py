"""Gradient estimators: bias against the plain gradient or exact enumeration, and the signal-to-noise of the guide as K grows.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --quick

Three claims: the doubly reparameterised gradient, and for one draw the one without the score, have the plain gradient's mean;
importance-weighted gradients of discrete draws have the mean that a sum over all draws gives; the signal-to-noise of the guide's
gradient falls with K under the plain estimator and not under the doubly reparameterised one.
"""

from __future__ import annotations

import itertools
import math

import common
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm._methods.fit.objectives.sampling import Gradients, sample_gradients

Y = torch.tensor([0.3, 1.2, -0.4, 2.0], dtype=torch.float64)
COLUMNS = {
    "claim": "claim",
    "estimator": "estimator",
    "K": "K",
    "z": "largest z",
    "snr_guide": "SNR of the guide",
    "status": "status",
}


def gaussian(y: Tensor) -> None:
    """Codes with a learned weight."""
    weight = pyro.param("weight", y.new_tensor(1.3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(weight * z, 0.5), obs=y)


def gaussian_guide(y: Tensor) -> None:
    """A linear encoder off its optimum."""
    slope = pyro.param("slope", y.new_tensor(0.5))
    sd = pyro.param("sd", y.new_tensor(0.5), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(slope * y, sd))


def discrete(y: Tensor) -> None:
    """A mixture of three, whose labels are drawn."""
    logit, centres = (
        pyro.param("prior", y.new_tensor([0.2, -0.1, 0.4])),
        pyro.param("centres", y.new_tensor([-1.0, 0.5, 2.0])),
    )
    with pyro.plate("row", len(y)):
        which = pyro.sample("which", dist.Categorical(logits=logit))
        pyro.sample("y", dist.Normal(centres[which], 0.8), obs=y)


def discrete_guide(y: Tensor) -> None:
    """Probabilities of its own for each row."""
    logits = pyro.param("logits", 0.3 * torch.arange(12.0, dtype=y.dtype).reshape(4, 3).sin())
    with pyro.plate("row", len(y)):
        pyro.sample("which", dist.Categorical(logits=logits))


def drawn(objective: lvm.ImportanceWeighted_ELBO, model: object, guide: object, draws: int, seed: int) -> Gradients:
    """Gradients at the first parameters."""
    problem = lvm.Problem(model, Y)  # type: ignore[arg-type]
    with problem.session(seed=seed):
        return sample_gradients(objective, model, guide, problem.whole, draws)


def enumerated(k: int) -> Tensor:
    """The exact gradient of the discrete pair: a sum over all 3^K draws of a row."""
    logits = (0.3 * torch.arange(12.0, dtype=Y.dtype).reshape(4, 3).sin()).requires_grad_()
    prior = torch.tensor([0.2, -0.1, 0.4], dtype=Y.dtype, requires_grad=True)
    centres = torch.tensor([-1.0, 0.5, 2.0], dtype=Y.dtype, requires_grad=True)
    picks = torch.tensor(list(itertools.product(range(3), repeat=k)))
    log_q = logits.log_softmax(-1)
    log_p = prior.log_softmax(-1) + dist.Normal(centres, 0.8).log_prob(Y[:, None])
    bound = (log_p - log_q)[:, picks].logsumexp(-1) - math.log(k)
    (log_q[:, picks].sum(-1).exp() * bound).sum().backward()
    return torch.cat([g.reshape(-1) for g in (logits.grad, prior.grad, centres.grad) if g is not None])


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--draws", type=int, default=100_000)
    args = parser.parse_args()
    draws = 2_000 if args.quick else args.draws
    rows: list[common.Row] = []
    for k, other in ((1, "stl"), (1, "dreg"), (8, "dreg")):
        plain = drawn(lvm.ImportanceWeighted_ELBO(k, gradient="plain"), gaussian, gaussian_guide, draws, args.seed)
        second = drawn(lvm.ImportanceWeighted_ELBO(k, gradient=other), gaussian, gaussian_guide, draws, args.seed + 1)
        z = float(((plain.mean - second.mean) / torch.hypot(plain.error, second.error)).abs().max())
        rows.append(
            {
                "claim": "mean of the plain gradient",
                "estimator": other,
                "K": k,
                "z": z,
                "status": "ok" if z < 3 else "above 3",
            }
        )
    for k in (1, 3):
        found = drawn(lvm.ImportanceWeighted_ELBO(k), discrete, discrete_guide, draws, args.seed)
        z = float(((found.mean - enumerated(k)) / found.error).abs().max())
        rows.append(
            {
                "claim": "mean by enumeration",
                "estimator": "leave-one-out",
                "K": k,
                "z": z,
                "status": "ok" if z < 3 else "above 3",
            }
        )
    for gradient in ("plain", "dreg"):
        for k in (1, 4, 16, 64):
            found = drawn(
                lvm.ImportanceWeighted_ELBO(k, gradient=gradient),
                gaussian,
                gaussian_guide,
                max(draws // 5, 1_000),
                args.seed,
            )
            guide = torch.tensor([name != "weight" for name in found.names])
            snr = float((found.mean.abs() / found.rows.std(0))[guide].mean())
            rows.append({"claim": "signal-to-noise", "estimator": gradient, "K": k, "snr_guide": snr, "status": "ok"})
    print(common.table(rows, COLUMNS))
    print(f"written to {common.report('objectives', args, {'draws': draws, 'rows': rows})}")


if __name__ == "__main__":
    main()
