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
    """Fits both guides, runs NUTS, compares, and writes report and pictures."""
    steps, draws = (300, 50) if quick else (20_000, 1000)
    problem = lvm.Problem(pumps, HOURS, FAILURES)
    mine, full = lvm.fit(problem, guide, max_steps=steps), lvm.fit(problem, "full_rank", max_steps=steps)
    report = lvm.compare({"mine": mine, "full rank": full, "nuts": lvm.nuts(problem, warmup=draws, draws=draws)})
    print(report)
    Path(folder).mkdir(parents=True, exist_ok=True)
    report.plot(path=Path(folder, "comparison.png"))
    report.to_html(Path(folder, "report.html"))
    arviz_plots.plot_forest(mine.data, var_names=["rate"], backend="matplotlib").savefig(Path(folder, "rates.png"))


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
