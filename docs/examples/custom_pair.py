"""A model and a guide of one's own: python docs/examples/custom_pair.py FOLDER [--quick]."""

import sys
from pathlib import Path

import arviz_plots
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

HOURS = [94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]  # Gaver and O'Muircheartaigh (1987), thousands
FAILURES = [5.0, 1.0, 5.0, 14.0, 3.0, 19.0, 1.0, 1.0, 4.0, 22.0]


@lvm.model(dims={"rate": ["pump"]}, coords={"pump": list(range(1, 11))})
def pumps(hours, failures):
    """Failures of ten pumps, each with a rate of its own."""
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("pump", len(hours)):
        rate = pyro.sample("rate", dist.Gamma(alpha, beta))
        pyro.sample("failures", dist.Poisson(rate * hours), obs=failures)


def guide(hours, failures):
    """Rates from their exact posterior given alpha and beta, and beta from nearly its own given alpha."""
    loc = pyro.param("loc", torch.zeros(()))
    scale, b = pyro.param("q", torch.ones(2), constraint=dist.constraints.positive)
    alpha = pyro.sample("alpha", dist.LogNormal(loc, scale))
    beta = pyro.sample("beta", dist.Gamma(0.1 + 10 * alpha, b))
    with pyro.plate("pump", len(hours)):
        pyro.sample("rate", dist.Gamma(alpha + failures, beta + hours))


def main(folder, quick=False):
    """Fits the guide and a registered one, runs NUTS, compares them, and writes report and pictures."""
    fast, short = ({"max_steps": 300}, {"chains": 2, "warmup": 50, "draws": 50}) if quick else ({}, {})
    problem = lvm.Problem(pumps, HOURS, FAILURES)
    results = {name: lvm.fit(problem, how, **fast) for name, how in {"mine": guide, "full_rank": "full_rank"}.items()}
    report = lvm.compare({**results, "nuts": lvm.nuts(problem, **short)}, reference="nuts")
    print(report)
    Path(folder).mkdir(parents=True, exist_ok=True)
    report.plot(path=Path(folder, "comparison.png"))
    report.to_html(Path(folder, "report.html"))
    forest = arviz_plots.plot_forest(results["mine"].data, var_names=["rate"], backend="matplotlib")
    forest.savefig(Path(folder, "rates.png"))


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
