"""A model and a guide of one's own: failure rates of ten pumps (Gaver and O'Muircheartaigh 1987), VI against NUTS.

python docs/examples/custom_pair.py FOLDER [--quick]
"""

import sys
from pathlib import Path

import arviz_plots
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

HOURS = [94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]  # thousands of hours in operation
FAILURES = [5.0, 1.0, 5.0, 14.0, 3.0, 19.0, 1.0, 1.0, 4.0, 22.0]


@lvm.model(dims={"rate": ["pump"]}, coords={"pump": list(range(1, 11))})
def pumps(hours, failures):
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("pump", len(hours)):
        rate = pyro.sample("rate", dist.Gamma(alpha, beta))
        pyro.sample("failures", dist.Poisson(rate * hours), obs=failures)


def conjugate(hours, failures):  # given alpha and beta, the posterior of every rate is a Gamma: the guide says so
    loc = pyro.param("loc", torch.tensor([-0.5, 0.0, 1.0]))
    scale = pyro.param("scale", torch.tensor([0.3, 0.3]), constraint=dist.constraints.positive)
    alpha = pyro.sample("alpha", dist.LogNormal(loc[0], scale[0]))
    beta = pyro.sample("beta", dist.LogNormal(loc[1] + loc[2] * alpha.log(), scale[1]))
    with pyro.plate("pump", len(hours)):
        pyro.sample("rate", dist.Gamma(alpha + failures, beta + hours))


def main(folder, quick=False):
    out, problem = Path(folder), lvm.Problem(pumps, HOURS, FAILURES)
    out.mkdir(parents=True, exist_ok=True)
    fits = {"conjugate": conjugate, "mean_field": "mean_field"}
    results = {name: lvm.fit(problem, guide, max_steps=300 if quick else None) for name, guide in fits.items()}
    results["nuts"] = lvm.nuts(problem, **({"chains": 2, "warmup": 50, "draws": 50} if quick else {}))
    report = lvm.compare(results, reference="nuts")
    print(report)
    report.plot(path=out / "comparison.png")
    report.to_html(out / "report.html")
    plot = arviz_plots.plot_forest(results["conjugate"].data, var_names=["rate"], backend="matplotlib")
    plot.savefig(out / "rates.png")


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
