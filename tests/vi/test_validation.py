"""Held-out data during a fit, schedules by name, streams, and callbacks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyrolvm as lvm
from pyrolvm._methods.fit.schedules import NAMED


def polynomial(x: Tensor, y: Tensor, degree: int = 15) -> None:
    """More coefficients than 20 rows can bear."""
    weights = pyro.param("weights", torch.zeros(degree + 1))
    powers = x[:, None] ** torch.arange(degree + 1)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(powers @ weights, 0.3), obs=y)


def points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, generator=generator) - 1
    return x, (3 * x).sin() + 0.3 * torch.randn(n, generator=generator)


@pytest.fixture(scope="module")
def problem() -> lvm.Problem:
    return lvm.Problem(polynomial, *points(20, 0))


X, Y = points(400, 1)
HELD = {"x": X, "y": Y}


def held_out_loss(params: Tensor) -> float:
    """Minus the log density of the held-out rows at these weights, for 20 rows."""
    powers = X[:, None] ** torch.arange(16)
    return -float(dist.Normal(powers @ params, 0.3).log_prob(Y).mean()) * 20


@pytest.mark.parametrize("engine", ["pyro", "c"])
def test_the_best_parameters_on_held_out_data_are_kept(problem: lvm.Problem, engine: str) -> None:
    options = {"engine": engine, "learning_rate": 0.05, "max_steps": 2000, "progress": False, "tolerance": 0}
    stopped = lvm.fit(problem, validation=HELD, validate_every=20, patience=5, **options)
    to_the_end = lvm.fit(problem, **options)
    losses = stopped.validation_losses
    assert losses is not None and losses.dims == ("validation_step",)
    best = float(losses.min())
    assert held_out_loss(stopped.params["weights"]) == pytest.approx(best, rel=1e-4)
    assert held_out_loss(to_the_end.params["weights"]) > best + 0.5
    assert len(stopped.losses) < 2000 and stopped.converged and "held-out rows has not improved" in stopped.stop_reason
    since = losses["validation_step"][-1] - losses["validation_step"][int(np.argmin(losses.values))]
    assert int(since) == 5 * 20
    figures = lvm.diagnose(stopped).figures
    assert figures["held_out_row"] == pytest.approx(-best / 20) and figures["log_p_row"] > figures["held_out_row"]
    assert stopped.verdict.trusted


def test_looks_and_patience(problem: lvm.Problem) -> None:
    fit = lvm.fit(problem, validation=HELD, validate_every=30, patience=None, engine="c", max_steps=300, progress=False)
    assert fit.validation_losses is not None
    assert fit.validation_losses["validation_step"].values.tolist() == list(range(30, 301, 30))


def test_validation_may_be_a_problem_and_leaves_the_steps_alone(problem: lvm.Problem) -> None:
    options = {"engine": "c", "max_steps": 200, "progress": False, "tolerance": 0}
    other = lvm.Problem(polynomial, X, Y)
    a = lvm.fit(problem, validation=other, patience=None, **options)
    b = lvm.fit(problem, validation=HELD, patience=None, **options)
    c = lvm.fit(problem, **options)
    np.testing.assert_array_equal(a.validation_losses, b.validation_losses)
    np.testing.assert_allclose(a.losses, c.losses)


@pytest.mark.slow
def test_held_out_rows_of_a_model_with_latents() -> None:
    problem = lvm.problem("vae", images=200)
    whole = problem.arguments["x"]
    fit = lvm.fit(
        problem,
        validation={"x": whole[:100]},  # of the fitted rows, so that both losses have the same expectation
        batch_size=50,
        max_steps=400,
        learning_rate=2e-3,
        draws=10,
        engine="pyro",
        progress=False,
    )
    losses = fit.validation_losses
    assert losses is not None and float(losses[-1]) < 0.8 * float(losses[0])
    # In the units of the steps: 200 rows, of which each step sees 50.
    assert float(losses[-1]) == pytest.approx(fit.losses[-20:].mean(), rel=0.15)


def test_a_guide_of_the_fitted_rows_alone_knows_no_others() -> None:
    problem = lvm.problem("vae", images=30)
    with pytest.raises(lvm.ArgumentError, match=r"has a row for each row of plate 'data'.*amortized"):
        lvm.fit(problem, "mean_field", validation=lvm.problem("vae", images=20), max_steps=5, engine="pyro")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": {"z": X}}, r"expected|must be a dictionary of arguments of polynomial \(x, y\)"),
        ({"validation": {}}, "an empty one"),
        ({"validation": {"x": X}}, r"whose arguments are x, y"),
        ({"validation": {"x": X, "y": Y[:3]}}, r"x: 400, y: 3"),
        ({"validation": {"x": X, "y": torch.full((400,), math.nan)}}, "400 non-finite values"),
        ({"validate_every": 5}, "without validation"),
        ({"validation": HELD, "validate_every": 0}, "validate_every must be an integer"),
        ({"validation": HELD, "patience": 0}, "patience must be an integer"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
    ],
)
def test_bad_input_is_said_before_the_first_step(problem: lvm.Problem, options, message: str) -> None:
    with pytest.raises((lvm.ArgumentError, lvm.DataError, lvm.UnknownNameError), match=message) as error:
        lvm.fit(problem, max_steps=5, engine="pyro", **options)
    assert "Fix:" in str(error.value)


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMED))
def test_schedules_follow_the_budget(problem: lvm.Problem, name: str) -> None:
    fit = lvm.fit(problem, schedule=name, learning_rate=0.1, max_steps=400, engine="c", progress=False)
    rates = fit.data["optimization"]["learning_rate"].values / 0.1
    assert len(rates) == 400 and rates.max() <= 1.0
    assert rates[0] == pytest.approx(0.05 if "warmup" in name else 1.0)
    assert rates[-1] == pytest.approx(1.0) if name == "warmup" else rates[-1] < 0.01


# --- streams ----------------------------------------------------------------------------------------------------------


def located(x: Tensor) -> None:
    mean = pyro.param("mean", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Numbers(IterableDataset[Tensor]):
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __iter__(self):
        return iter(self.values)


VALUES = torch.randn(300, generator=torch.Generator().manual_seed(0)) + 2.0


@pytest.mark.parametrize(
    "stream",
    [
        lambda: lvm.stream(TensorDataset(VALUES), batch_size=64),
        lambda: lvm.stream(Numbers(VALUES), batch_size=64, size=300),
        lambda: lvm.stream(DataLoader(TensorDataset(VALUES), batch_size=64)),  # whose last batch is shorter
    ],
    ids=["dataset", "iterable", "loader"],
)
def test_a_stream_is_scaled_to_all_its_rows(stream) -> None:
    problem = lvm.Problem(located, *stream())
    assert problem.stream is not None and problem.stream.size == 300 and problem.arguments["x"].shape == (64,)
    fit = lvm.fit(problem, engine="pyro", max_steps=120, learning_rate=0.05, schedule="cosine", progress=False)
    assert float(fit.params["mean"]) == pytest.approx(float(VALUES.mean()), abs=0.1)
    expected = -300 * float(dist.Normal(VALUES.mean(), 1.0).log_prob(VALUES).mean())
    assert fit.losses[-50:].mean() == pytest.approx(expected, rel=0.05)


def test_a_stream_runs_captured() -> None:
    problem = lvm.Problem(located, lvm.stream(TensorDataset(VALUES), batch_size=64))
    fits = [lvm.fit(problem, engine=engine, max_steps=40, progress=False, tolerance=0) for engine in ("torch", "pyro")]
    assert [fit.engine for fit in fits] == ["torch", "pyro"]
    assert abs(fits[0].losses[-20:].mean() / fits[1].losses[-20:].mean() - 1) < 0.1


class Shuffled(Numbers):
    """In an order of its own, by NumPy."""

    def __iter__(self):
        return iter(self.values[np.random.permutation(len(self.values))])


@pytest.mark.parametrize(
    ("engine", "stream"),
    [
        ("torch", lambda: lvm.stream(TensorDataset(VALUES), batch_size=64)),
        ("pyro", lambda: lvm.stream(Shuffled(VALUES), batch_size=64, size=300)),
        ("pyro", lambda: lvm.stream(DataLoader(TensorDataset(VALUES), batch_size=70, shuffle=True))),
    ],
    ids=["dataset", "iterable", "loader"],
)
def test_a_stream_goes_on_where_it_was(engine: str, stream, tmp_path: Path) -> None:
    class Stop:
        def __init__(self, at: int) -> None:
            self.at = at

        def __call__(self, step) -> None:
            if step.step == self.at:
                raise KeyboardInterrupt

    def run(*callbacks, **options):
        problem = lvm.Problem(located, stream())
        return lvm.fit(
            problem, engine=engine, max_steps=40, tolerance=0, progress=False, callbacks=list(callbacks), seed=3, **options
        )  # fmt: skip

    whole = run()
    run(Stop(6), out=tmp_path / "run")  # in the middle of a pass
    run(Stop(15), out=tmp_path / "run", resume=True)  # where one begins
    resumed = run(out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert float(resumed.params["mean"]) == float(whole.params["mean"])


def test_columns_of_a_stream_stay_together() -> None:
    x, y = points(200, 3)
    stream = lvm.stream(TensorDataset(x, y), batch_size=50)
    problem = lvm.Problem(polynomial, *stream, degree=3)
    fit = lvm.fit(problem, engine="pyro", max_steps=300, learning_rate=0.05, progress=False)
    weights = fit.params["weights"]
    powers = x[:, None] ** torch.arange(4)
    assert float(dist.Normal(powers @ weights, 0.3).log_prob(y).mean()) > -0.45


def test_latents_of_all_rows_have_no_steps_by_streams() -> None:
    def shared(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    problem = lvm.Problem(shared, lvm.stream(TensorDataset(VALUES), batch_size=64))
    with pytest.raises(lvm.ArgumentError, match=r"latent 'mean' is of all 300 rows.*Fix:"):
        lvm.fit(problem, max_steps=10)
    with pytest.raises(lvm.ArgumentError, match=r"a stream of 300 rows, which only lvm.fit can read.*Fix:"):
        lvm.nuts(problem)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lvm.stream(TensorDataset(VALUES)), "needs batch_size"),
        (lambda: lvm.stream([1, 2][0], batch_size=2), "got int"),
        (lambda: lvm.stream(Numbers(VALUES), batch_size=2), "does not tell how many rows"),
        (lambda: lvm.stream(TensorDataset(VALUES[:3]), batch_size=4), "has no batch of 4 rows"),
        (lambda: lvm.stream(TensorDataset(VALUES), batch_size=4, size=3), "size=3 is less"),
        (lambda: lvm.stream([{"a": 1.0}] * 5, batch_size=2), "is a dict"),
        (lambda: lvm.stream(DataLoader(TensorDataset(VALUES)), batch_size=4), "beside a DataLoader"),
        (lambda: lvm.Problem(located, lvm.stream(TensorDataset(VALUES, VALUES), batch_size=4)), "stream of 2 columns"),
    ],
)
def test_what_is_no_stream(make, message: str) -> None:
    with pytest.raises((lvm.ArgumentError, lvm.DataError), match=message) as error:
        make()
    assert "Fix:" in str(error.value)


# --- callbacks --------------------------------------------------------------------------------------------------------


class Seen:
    def __init__(self, every: int) -> None:
        self.every, self.steps = every, []

    def __call__(self, step) -> None:
        self.steps.append((step.step, len(step.history.losses)))


def test_a_callback_is_called_every_so_many_steps(problem: lvm.Problem) -> None:
    seen = Seen(70)
    fit = lvm.fit(problem, engine="c", callbacks=[seen], max_steps=300, tolerance=0, progress=False)
    assert seen.steps == [(69, 70), (139, 140), (209, 210), (279, 280)]
    alone = lvm.fit(problem, engine="c", max_steps=300, tolerance=0, progress=False)
    np.testing.assert_array_equal(fit.losses, alone.losses)


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-4.0, 4.0, 12))


def image(x: Tensor, net: Logits) -> None:
    pyro.module("net", net)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=net.logits).to_event(1), obs=x)


def test_a_sample_grid_shows_the_model_as_it_is(tmp_path: Path) -> None:
    from matplotlib.image import imread

    problem = lvm.Problem(image, (torch.arange(12) < 6).float().expand(20, 12), Logits())
    grid = lvm.callbacks.SampleGrid(tmp_path, every=200, count=9, shape=(3, 4))
    options = {"engine": "c", "max_steps": 400, "learning_rate": 0.1, "tolerance": 0, "progress": False}
    fit = lvm.fit(problem, callbacks=[grid], **options)
    pictures = sorted(tmp_path.glob("*.png"))
    assert [picture.name for picture in pictures] == ["step-000200.png", "step-000400.png"]
    last = imread(pictures[-1])[..., 0]
    assert last.shape == (3 * 4 - 1, 3 * 5 - 1)
    assert last[:1, :4].mean() > 0.9 and last[2:3, :4].mean() < 0.1  # what the data say, against what it began with
    np.testing.assert_array_equal(fit.losses, lvm.fit(problem, **options).losses)
    with pytest.raises(lvm.ArgumentError, match=r"is no image of 3 x 3.*Fix:"):
        lvm.fit(problem, callbacks=[lvm.callbacks.SampleGrid(tmp_path, every=5)], **options)


def test_tensorboard_has_every_step(problem: lvm.Problem, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = lvm.callbacks.TensorBoard(tmp_path, every=50)
    fit = lvm.fit(
        problem, callbacks=[board], validation=HELD, validate_every=25, engine="c", max_steps=150, progress=False
    )
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    np.testing.assert_allclose([e.value for e in events.Scalars("loss")], fit.losses, rtol=1e-6)
    assert [e.step for e in events.Scalars("validation_loss")] == [25, 50, 75, 100, 125]
    assert len(events.Scalars("rms/weights")) == 3
