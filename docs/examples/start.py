"""The first ten minutes: a model, its data, a posterior that can be trusted, and a prediction.

python docs/examples/start.py
"""

# --- model
import pyro
import pyro.distributions as dist

import pyrolvm as lvm


def pumps(hours, failures):
    """Failures of pumps over hours of work, a rate for each pump."""
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("pump", len(hours)):
        rate = pyro.sample("rate", dist.Gamma(alpha, beta))
        pyro.sample("failures", dist.Poisson(rate * hours), obs=failures)


# --- use
def main() -> None:
    """Infers, says whether that can be trusted, and predicts."""
    hours = [94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]
    failures = [5.0, 1.0, 5.0, 14.0, 3.0, 19.0, 1.0, 1.0, 4.0, 22.0]
    problem = lvm.Problem(pumps, hours, failures)

    posterior = lvm.infer(problem, seed=0)
    print(posterior.verdict)
    print(posterior.summary().round(2).iloc[:4, :5])

    ahead = lvm.predict(posterior, [10.0] * 10, None, members={"pump": "same"})  # ten more hours of each
    print(ahead["predictions"]["failures"].mean(("chain", "draw")).values.round(1))


# --- end
if __name__ == "__main__":
    main()
