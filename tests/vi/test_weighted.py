"""The importance-weighted bound: what it bounds, for each row, and gradients without bias."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from torch import Tensor
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._methods.fit.objectives import ImportanceWeighted_ELBO, ParticleELBO, PureELBO
from pyrolvm._methods.fit.objectives.sampling import sample_gradients

Y = torch.tensor([0.3, 1.2, -0.4, 2.0], dtype=torch.float64)

Program = Callable[..., Any]


def local(y: Tensor) -> None:
    weight = pyro.param("weight", y.new_tensor(1.3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(weight * z, 0.5), obs=y)


def local_guide(y: Tensor) -> None:
    slope = pyro.param("slope", y.new_tensor(0.3))
    sd = pyro.param("sd", y.new_tensor(0.9), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(slope * y, sd))


def local_evidence(y: Tensor) -> Tensor:
    return dist.Normal(0.0, math.sqrt(1.3**2 + 0.25)).log_prob(y).sum()


def hierarchy(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def hierarchy_guide(y: Tensor) -> None:
    loc = pyro.param("loc", y.new_tensor(0.5))
    sd = pyro.param("sd", y.new_tensor(0.6), constraint=constraints.positive)
    slope = pyro.param("slope", y.new_tensor(0.5))
    mean = pyro.sample("mean", dist.Normal(loc, sd))
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(slope * y + (1 - slope) * mean, 0.8))


def hierarchy_evidence(y: Tensor) -> Tensor:
    cov = 1.25 * torch.eye(len(y), dtype=y.dtype) + 4.0
    return dist.MultivariateNormal(torch.zeros_like(y), cov).log_prob(y)


def mixed(y: Tensor) -> None:
    logit = pyro.param("prior", y.new_tensor([0.2, -0.1, 0.4]))
    centres = pyro.param("centres", y.new_tensor([-1.0, 0.5, 2.0]))
    with pyro.plate("row", len(y)):
        which = pyro.sample("which", dist.Categorical(logits=logit))
        pyro.sample("y", dist.Normal(centres[which], 0.8), obs=y)


def mixed_guide(y: Tensor) -> None:
    logits = pyro.param("logits", 0.3 * torch.arange(12.0, dtype=y.dtype).reshape(4, 3).sin())
    with pyro.plate("row", len(y)):
        pyro.sample("which", dist.Categorical(logits=logits[: len(y)]))


def gradients(elbo: PureELBO, programs: tuple[Program, Program], count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``count`` estimates of the bound and of minus its gradient, shapes ``(count,)`` and ``(count, numbers)``."""
    problem = lvm.Problem(programs[0], Y)
    with problem.session(seed=seed):
        programs[1](Y)
        found = sample_gradients(elbo, programs[0], programs[1], problem.whole, count)
    return found.values, -found.rows


def differ(one: Tensor, other: Tensor) -> Tensor:
    """How many standard errors the means of two sets of rows are apart."""
    error = torch.hypot(one.std(0) / len(one) ** 0.5, other.std(0) / len(other) ** 0.5)
    return (one.mean(0) - other.mean(0)).abs() / error.clamp(min=1e-12)


# --- what it bounds ---------------------------------------------------------------------------------------------------


def bound(k: int, programs: tuple[Program, Program], count: int = 2000, **options: Any) -> tuple[float, float]:
    values, _ = gradients(ImportanceWeighted_ELBO(k, gradient="plain", **options), programs, count, seed=1)
    return float(values.mean()), float(values.std()) / count**0.5


def test_the_bound_rises_to_the_evidence_row_by_row() -> None:
    exact = float(local_evidence(Y))
    found = [bound(k, (local, local_guide)) for k in (1, 4, 16, 128)]
    for (low, low_error), (high, high_error) in itertools.pairwise(found):
        assert high - low > 3 * math.hypot(low_error, high_error)
    value, error = found[-1]
    assert value < exact + 4 * error
    assert exact - value < 0.05


def test_the_logarithm_is_taken_for_each_row_not_for_all() -> None:
    """Four rows' bounds are four times tighter than one bound of four rows: they need not be good all at once."""
    rows, _ = bound(8, (local, local_guide), bound="rows")
    joint, _ = bound(8, (local, local_guide), bound="joint")
    assert rows > joint + 0.3
    by_hand = []
    with runtime.session(seed=2, dtype=torch.float64), torch.no_grad():
        for _ in range(2000):
            z = 0.3 * Y + 0.9 * torch.randn(8, 4)
            log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(1.3 * z, 0.5).log_prob(Y)
            log_w = log_w - dist.Normal(0.3 * Y, 0.9).log_prob(z)
            by_hand.append(float((log_w.logsumexp(0) - math.log(8)).sum()))
    wanted = torch.tensor(by_hand)
    value, error = bound(8, (local, local_guide))
    assert abs(value - float(wanted.mean())) < 4 * math.hypot(error, float(wanted.std()) / 2000**0.5)


def test_what_rows_share_is_drawn_once_and_bounded_from_below() -> None:
    """With K the rows' gap vanishes; that of what they share, KL(q(mean) || p(mean | y)), is left."""
    value, error = bound(256, (hierarchy, hierarchy_guide))
    variance = 1 / (1 / 4 + 4 / 1.25)
    centre = variance * float(Y.sum()) / 1.25
    gap = math.log(math.sqrt(variance) / 0.6) + (0.36 + (0.5 - centre) ** 2) / (2 * variance) - 0.5
    assert value == pytest.approx(float(hierarchy_evidence(Y)) - gap, abs=4 * error + 0.02)
    joint, joint_error = bound(256, (hierarchy, hierarchy_guide), bound="joint")
    assert value < joint < float(hierarchy_evidence(Y)) + 4 * joint_error


def test_minibatches_have_the_mean_of_the_whole(make_data: Any) -> None:
    y = make_data(torch.float64, rows=12)
    problem = lvm.Problem(local, y)
    elbo = ImportanceWeighted_ELBO(4)
    with problem.session(seed=0):

        def run(rows: Tensor | None) -> Tensor:
            return sample_gradients(elbo, problem.model, local_guide, problem.batch(rows), 3000).values

        whole, parts = run(None), [run(rows) for rows in torch.arange(12).split(4)]
    together = torch.stack(parts).mean(0)  # each row once, and three times
    assert float(differ(whole, together)) < 4
    assert float(together.std()) == pytest.approx(float(whole.std()), rel=0.1)
    assert max(abs(float(part.mean() - whole.mean())) for part in parts) > 1


def test_a_plate_that_picks_its_rows_at_random_picks_the_same_in_every_draw() -> None:
    """Stock Pyro's own subsampling: rows' weights are of the rows that were picked."""

    def picks(program: Program) -> Program:
        def run(y: Tensor) -> None:
            with pyro.plate("row", len(y), subsample_size=2) as rows:
                program(y[rows])

        return run

    def inside(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(1.3 * z, 0.5), obs=y)

    def guided(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("slope", y.new_tensor(0.7)) * y, 0.4))

    elbo, model, guide = ImportanceWeighted_ELBO(64), picks(inside), picks(guided)
    with runtime.session(seed=1, dtype=torch.float64), torch.no_grad():
        values = torch.tensor([-elbo.loss(model, guide, Y) for _ in range(300)])
    assert float(values.mean()) == pytest.approx(
        float(local_evidence(Y)), abs=4 * float(values.std()) / 300**0.5 + 0.05
    )
    rows = dist.Normal(0.0, math.sqrt(1.3**2 + 0.25)).log_prob(Y)
    pairs = torch.tensor([2 * float(rows[i] + rows[j]) for i, j in itertools.combinations(range(4), 2)])
    assert float((values[:, None] - pairs).abs().min(1).values.max()) < 1.0


def test_a_masked_row_counts_nothing() -> None:
    keep = torch.tensor([True, True, False, True])

    def masked(program: Program) -> Program:
        return pyro.poutine.mask(program, mask=keep)

    value, error = bound(512, (masked(local), masked(local_guide)), count=100)
    exact = float(local_evidence(Y[keep]))
    assert value == pytest.approx(exact, abs=4 * error + 0.02)


def test_one_draw_is_pyros_elbo() -> None:
    """For K = 1, a plain gradient and no shared site, value and gradient are those of ``Trace_ELBO``, number for number."""

    def loss_and_grads(elbo: infer.ELBO) -> list[float]:
        with runtime.session(seed=3, dtype=torch.float64):
            loss = elbo.loss_and_grads(local, local_guide, Y)
            return [loss, *(float(p.grad) for p in runtime.parameters().values())]

    mine = ImportanceWeighted_ELBO(1, gradient="plain", vectorize=False)
    with runtime.session(seed=0, dtype=torch.float64):
        mine.structure(local, local_guide, Y)
    assert loss_and_grads(mine) == pytest.approx(loss_and_grads(infer.Trace_ELBO(max_plate_nesting=1)), rel=1e-10)
    values, grads = gradients(mine, (hierarchy, hierarchy_guide), 20_000)
    wanted, expected = gradients(ParticleELBO(), (hierarchy, hierarchy_guide), 20_000, seed=1)
    assert float(differ(values, wanted)) < 4
    assert bool((differ(grads, expected) < 4).all())


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("programs", [(local, local_guide), (hierarchy, hierarchy_guide)], ids=["local", "hierarchy"])
@pytest.mark.parametrize("k", [1, 6])
def test_doubly_reparameterised_gradients_have_no_bias(programs: tuple[Program, Program], k: int) -> None:
    plain = gradients(ImportanceWeighted_ELBO(k, gradient="plain"), programs, 20_000)[1]
    doubly = gradients(ImportanceWeighted_ELBO(k, gradient="dreg"), programs, 20_000, seed=5)[1]
    assert bool((differ(plain, doubly) < 4).all())
    names = ["slope", "sd", "weight"] if programs[0] is local else ["loc", "sd", "slope"]
    slope = names.index("slope")
    assert float(doubly[:, slope].std()) < float(plain[:, slope].std())


def test_without_the_score_alone_the_gradient_of_several_draws_is_biased() -> None:
    """A control: what ``"dreg"`` mends is there to be mended."""
    plain = gradients(ImportanceWeighted_ELBO(6, gradient="plain"), (local, local_guide), 20_000)[1]
    path = gradients(ImportanceWeighted_ELBO(6, gradient="stl"), (local, local_guide), 20_000, seed=5)[1]
    assert float(differ(plain, path).max()) > 6


def test_doubly_reparameterised_gradients_vanish_at_the_posterior() -> None:
    def posterior(y: Tensor) -> None:
        precision = 1 + 1.3**2 / 0.25
        slope = pyro.param("slope", y.new_tensor(1.3 / 0.25 / precision))
        sd = pyro.param("sd", y.new_tensor(precision**-0.5))
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(slope * y, sd))

    found = gradients(ImportanceWeighted_ELBO(5, gradient="dreg"), (local, posterior), 5)[1]
    assert float(found[:, :2].abs().max()) < 1e-12
    noisy = gradients(ImportanceWeighted_ELBO(5, gradient="plain"), (local, posterior), 5)[1]
    assert float(noisy[:, :2].abs().max()) > 0.1


def exact_discrete(k: int) -> tuple[float, Tensor]:
    """The bound of ``mixed`` and its gradient by summing over all 3^K draws of a row."""
    with runtime.session(seed=0, dtype=torch.float64):
        mixed(Y), mixed_guide(Y)
        params = runtime.parameters()
        picks = torch.tensor(list(itertools.product(range(3), repeat=k)))
        log_q = params["logits"].log_softmax(-1)
        log_p = params["prior"].log_softmax(-1) + dist.Normal(params["centres"], 0.8).log_prob(Y[:, None])
        log_w = (log_p - log_q)[:, picks]  # rows, ways, k
        ways = log_q[:, picks].sum(-1).exp()
        value = (ways * (log_w.logsumexp(-1) - math.log(k))).sum()
        value.backward()
        order = [params[name].grad for name in ("logits", "prior", "centres")]
        return float(value.detach()), -torch.cat([g.reshape(-1) for g in order if g is not None])


@pytest.mark.parametrize(("k", "baseline"), [(1, "leave_one_out"), (3, "leave_one_out"), (3, "none")])
def test_gradients_of_discrete_draws_are_those_of_enumeration(k: int, baseline: str) -> None:
    value, wanted = exact_discrete(k)
    values, found = gradients(ImportanceWeighted_ELBO(k, baseline=baseline), (mixed, mixed_guide), 30_000)
    error = found.std(0) / len(found) ** 0.5
    assert bool(((found.mean(0) - wanted).abs() < 4 * error).all())
    assert abs(float(values.mean()) - value) < 4 * float(values.std()) / len(values) ** 0.5
    assert float(error.max()) < 0.1 * float(wanted.abs().max())  # or the comparison would say nothing


def test_leave_one_out_lowers_the_noise() -> None:
    spread = {
        baseline: float(
            gradients(ImportanceWeighted_ELBO(4, baseline=baseline), (mixed, mixed_guide), 4000)[1][:, :12].var(0).sum()
        )
        for baseline in ("leave_one_out", "none")
    }
    assert spread["leave_one_out"] < 0.3 * spread["none"]


def test_wake_updates_lead_to_the_posterior() -> None:
    """With many draws, the wake gradient of the guide is that of the divergence from the posterior to it."""
    with runtime.session(seed=0, dtype=torch.float64):
        mixed(Y), mixed_guide(Y)
        params = {name: p.detach() for name, p in runtime.parameters().items()}
    log_p = params["prior"].log_softmax(-1) + dist.Normal(params["centres"], 0.8).log_prob(Y[:, None])
    wanted = (params["logits"].softmax(-1) - log_p.softmax(-1)).reshape(-1)
    found = gradients(ImportanceWeighted_ELBO(400, gradient="wake"), (mixed, mixed_guide), 1000)[1][:, :12]
    torch.testing.assert_close(found.mean(0), wanted, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("k", [1, 40])
def test_dreams_teach_the_guide_what_the_model_draws_and_the_model_what_the_data_are(k: int) -> None:
    """Wake-sleep against its two expectations in closed form: of the guide under the model's joint, of the model under the guide."""
    slope, sd, weight = 0.3, 0.9, 1.3
    problem = lvm.Problem(local, Y)
    with problem.session(seed=0):
        local_guide(Y)
        elbo = ImportanceWeighted_ELBO(k, gradient="sleep")
        found = sample_gradients(elbo, local, local_guide, problem.whole, 20_000 // k)
    mean, error = -found.rows.mean(0), found.rows.std(0) / len(found.rows) ** 0.5
    at = {name: found.names.index(name) for name in ("slope", "sd", "weight")}
    spread = weight**2 + 0.25
    residual = 1 - 2 * slope * weight + slope**2 * spread
    wanted = {
        "slope": -len(Y) * (weight - slope * spread) / sd**2,
        "sd": -len(Y) * (residual / sd**2 - 1),
    }
    if k == 1:
        wanted["weight"] = -float(((slope * Y**2 - weight * (slope**2 * Y**2 + sd**2)) / 0.25).sum())
    for name, value in wanted.items():
        assert abs(float(mean[at[name]]) - value) < 4 * float(error[at[name]]), name
        assert float(error[at[name]]) < 0.1 * abs(value), name
    whole, off = bound(k, (local, local_guide))
    assert abs(float(found.values.mean()) - whole) < 4 * math.hypot(
        off, float(found.values.std()) / 20_000**0.5 * k**0.5
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_random_rows_of_one_bound_for_all_are_refused(make_data: Any, short: Callable[..., lvm.Fit]) -> None:
    problem = lvm.Problem(hierarchy, make_data(rows=12))
    with pytest.raises(lvm.ArgumentError, match=r"is no bound.*Fix"):
        short(problem, "amortized", objective=ImportanceWeighted_ELBO(4, bound="joint"), batch_size=4)
    with pytest.raises(lvm.ProblemError, match=r"no bound for each row.*outside the plate.*Fix"):
        short(problem, "full_rank", objective=ImportanceWeighted_ELBO(4, bound="rows"))


def test_dreams_of_what_is_no_argument_are_refused(short: Callable[..., lvm.Fit]) -> None:
    def doubled(y: Tensor) -> None:
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=2 * y)

    with pytest.raises(lvm.GuideError, match=r"'y' observes no argument.*Fix"):
        short(lvm.Problem(doubled, Y), local_guide, objective=ImportanceWeighted_ELBO(1, gradient="sleep"))


def test_a_guide_that_leaves_a_site_out_is_refused(mixture_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    with pytest.raises(lvm.GuideError, match=r"'on'.*does not sum out.*Fix"):
        short(mixture_problem, objective="ImportanceWeighted_ELBO")


def test_options_are_checked(short: Callable[..., lvm.Fit], make_data: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match="num_particles"):
        ImportanceWeighted_ELBO(0)
    for options in ({"gradient": "drag"}, {"bound": "row"}, {"baseline": "mean"}):
        with pytest.raises(lvm.UnknownNameError, match="Fix"):
            ImportanceWeighted_ELBO(**options)
    problem = lvm.Problem(mixed, make_data(rows=4))
    with pytest.raises(lvm.GuideError, match=r"'which' cannot be reparameterised.*Fix"):
        short(problem, mixed_guide, objective=ImportanceWeighted_ELBO(4, gradient="dreg"))


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "programs"),
    [(engine, (local, local_guide)) for engine in ("pyro", "c", "jax")] + [("jax", (mixed, mixed_guide))],
    ids=["dreg-pyro", "dreg-c", "dreg-jax", "vimco-jax"],
)
def test_a_fit_takes_it_by_name_in_every_engine(engine: str, programs: tuple[Program, Program]) -> None:
    problem = lvm.Problem(programs[0], Y)
    fit = lvm.fit(
        problem, programs[1], objective="ImportanceWeighted_ELBO", num_particles=5, engine=engine, max_steps=60,
        tolerance=0, draws=20, progress=False,
    )  # fmt: skip
    assert fit.engine == engine
    assert "5 draws of each row of plate 'row'" in fit.data["posterior"].attrs["objective"]
    assert fit.data["optimization"].attrs["num_particles"] == 5
    assert fit.losses[-15:].mean() < fit.losses[:15].mean()


def test_a_running_mean_runs_on_pyro_and_says_why(short: Callable[..., lvm.Fit]) -> None:
    with pytest.warns(lvm.PyrolvmWarning, match="running"):
        fit = short(
            lvm.Problem(mixed, Y), mixed_guide, objective=ImportanceWeighted_ELBO(2, baseline="running"), engine="c"
        )
    assert fit.engine == "pyro"


def test_stock_pyro_takes_it() -> None:
    with runtime.session(seed=0, dtype=torch.float64):
        svi = infer.SVI(local, local_guide, pyro.optim.Adam({"lr": 0.02}), lvm.ImportanceWeighted_ELBO(3))
        losses = torch.tensor([svi.step(Y) for _ in range(100)])
    assert float(losses[-30:].mean()) < float(losses[:5].mean()) - 0.1
