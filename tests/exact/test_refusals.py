"""What is not exact is refused, with the site that stands in the way; bad arguments are refused before anything runs."""

from __future__ import annotations

import time

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._laws import recognition

FIX = r"Fix: use lvm\.infer\(problem\) or lvm\.nuts\(problem\)\."


def double(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def scale_follows(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def real_scale(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, (0.1 * a).exp()))
    pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def covariance_follows(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2), torch.eye(2) * (1 + a**2)))
    pyro.sample("y", dist.Normal(b.sum(), 1.0), obs=y)


def cubed(y: Tensor) -> None:
    """Value, slope and curvature of the location are zero at the origin."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a**3, 1.0), obs=y)


def multiplied(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a * b, 1.0), obs=y)


def masked_far_out(y: Tensor) -> None:
    """Quadratic at every point that anybody would try."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.poutine.mask(mask=a < 1e6):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def bent_far_out(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(torch.where(a > 1e6, a**2, a), 1.0), obs=y)


def clamped_far_out(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a.clamp(max=1e6), 1.0), obs=y)


def almost_linear(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a + 1e-12 * a.sin(), 1.0), obs=y)


def rounded(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a.long().to(a.dtype), 1.0), obs=y)


def detached(y: Tensor) -> None:
    """Quadratic in fact, but its derivatives are another density's."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a.detach(), 1.0), obs=y)


def heavy_tails(y: Tensor) -> None:
    a = pyro.sample("a", dist.StudentT(4.0, 0.0, 1.0))
    pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def heavy_noise(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Laplace(a, 1.0), obs=y)


def random_inside(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a + 1e-14 * torch.randn(()), 1.0), obs=y)


def reads(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a, 1.0 if a.item() < 1e6 else 2.0), obs=y)


def counts(y: Tensor) -> None:
    k = pyro.sample("k", dist.Poisson(3.0))
    pyro.sample("y", dist.Normal(k, 1.0), obs=y)


def bounded_and_discrete(y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(p))
    pyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y)


def an_interval(y: Tensor) -> None:
    u = pyro.sample("u", dist.Uniform(-1.0, 3.0))
    pyro.sample("y", dist.Normal(u, 1.0), obs=y)


CASES = [
    (scale_follows, r"site 'tau' sets the scale of 'theta', so the joint is not Gaussian"),
    (real_scale, r"site 'a' sets the scale of 'b'"),
    (covariance_follows, r"site 'a' sets the covariance of 'b'"),
    (cubed, r"log density of site 'y' is not quadratic in 'a' \(it is a polynomial of degree 6\)"),
    (multiplied, r"site 'y' is not quadratic in 'a' and 'b' \(they are multiplied"),
    (masked_far_out, r"site 'y' is not quadratic in 'a' .*`lt\."),
    (bent_far_out, r"site 'y' is not quadratic in 'a' .*`gt\."),
    (clamped_far_out, r"site 'y' is not quadratic in 'a' .*`clamp"),
    (almost_linear, r"site 'y' is not quadratic in 'a' .*`sin"),
    (rounded, r"site 'y' is not quadratic in 'a' "),
    (detached, r"looks like one of a known form \(Gaussian, 1 unknown\), but log p - log q differs"),
    (heavy_tails, r"site 'a' is a StudentT"),
    (heavy_noise, r"the data 'y' are Laplace and depend on 'a'"),
    (random_inside, r"draws random numbers of its own"),
    (reads, r"cannot be captured at test_refusals.py"),
    (counts, r"site 'k' is Poisson, discrete with infinitely many values"),
    (bounded_and_discrete, r"site 'p' \(Beta\) is not Gaussian, and 'z' is discrete"),
    (an_interval, r"site 'u' \(Uniform\) has support"),
]


@pytest.mark.parametrize(("model", "reason"), CASES, ids=lambda part: getattr(part, "__name__", ""))
def test_what_is_not_exact_says_why_and_ends_in_a_remedy(exact, model, reason):
    with pytest.raises(lvm.ProblemError, match=rf"(?s){reason}.*{FIX}"):
        exact(model, double(0.3))


def test_a_mask_that_a_discrete_latent_sets_is_no_obstacle(exact):
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=z > 0):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    result = exact(model, double(0.3))
    seen = stats.norm(0, 2**0.5).pdf(0.3)
    assert result.evidence.value == pytest.approx(np.log(0.3 * seen + 0.7), abs=1e-10)


def test_too_many_unknowns_are_refused_before_anything_runs(monkeypatch):
    def model(y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(50_000), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.mean(), 1.0), obs=y)

    problem = lvm.Problem(model, double(0.0))
    monkeypatch.setattr(recognition.Program, "trace", lambda *_: pytest.fail("it ran"))
    with pytest.raises(lvm.ProblemError, match=r"50,000 dependent unknowns.*Fix:"):
        lvm.exact(problem, progress=False)


def test_rows_that_are_not_independent_are_noticed(exact, monkeypatch, rng):
    """Each row looks at the one before, inside one plate."""

    def model(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x + 0.5 * x.roll(1, -1), 1.0), obs=y)

    y = rng.normal(size=8)
    mixing = np.eye(8) + 0.5 * np.roll(np.eye(8), 1, 0)
    wanted = dist.MultivariateNormal(torch.zeros(8), double(mixing @ mixing.T + np.eye(8))).log_prob(double(y))
    assert exact(model, double(y)).evidence.value == pytest.approx(float(wanted), abs=1e-10)
    monkeypatch.setattr(recognition, "ROWS_PAY", 0)  # as if there were many
    with pytest.raises(lvm.ProblemError, match=rf"log p - log q differs.*{FIX}"):
        exact(model, double(y))


def test_a_model_without_latents_is_refused(exact):
    with pytest.raises(lvm.ProblemError, match=r"no latent site.*Fix:"):
        exact(lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y), double(0.3))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"draws": 0}, r"draws.*Fix:"),
        ({"draws": 1.5}, r"draws.*Fix:"),
        ({"seed": -1}, r"seed.*Fix:"),
        ({"params": 3}, r"params.*int.*Fix:"),
        ({"device": "nowhere"}, r"device.*Fix:"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(exact, options, match):
    def model(y: Tensor) -> None:
        pyro.sample("y", dist.Normal(pyro.sample("a", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with pytest.raises(lvm.ArgumentError, match=match):
        exact(model, double(0.3), **options)


def test_what_is_no_problem_is_refused():
    with pytest.raises(lvm.ArgumentError, match="Fix:"):
        lvm.exact(cubed, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["eight_schools_noncentered", "logistic_regression", "gaussian_mixture", "ppca"])
def test_a_refusal_costs_milliseconds(name):
    problem = lvm.problem(name)
    times = []
    for _ in range(5):
        started = time.process_time()
        with pytest.raises(lvm.ProblemError, match="Fix:"):
            lvm.exact(problem, progress=False)
        times.append(time.process_time() - started)
    assert min(times) < 0.1


def test_a_model_that_holds_single_precision_tensors_is_told_so(exact):
    held = torch.ones(3, dtype=torch.float32)

    def model(y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("y", dist.Normal(held.float() @ b, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"does not run in double precision.*Fix: give the tensors"):
        exact(model, torch.tensor(0.3))
