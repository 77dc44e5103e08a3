"""A method that is right passes; one that is wrong fails, for the reason that it is wrong."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._check.calibrate import workers as processes

X = torch.stack([torch.ones(8), torch.linspace(0.5, 2.0, 8)], dim=1)


@lvm.model(dims={"beta": ["predictor"]}, coords={"predictor": ["one", "x"]})
def regression(x, y):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def moments(problem):
    x, y = problem.args
    precision = torch.eye(2) + x.T @ x
    return torch.linalg.solve(precision, x.T @ y), precision


def exact(problem, scale=1.0, shift=0.0):
    mean, precision = moments(problem)
    root = torch.linalg.inv(torch.linalg.cholesky(precision))
    sds = torch.linalg.inv(precision).diagonal().sqrt()
    return {"beta": mean + shift * sds + scale * torch.randn(127, 2) @ root}


def prior(problem):
    return {"beta": torch.randn(127, 2)}


def factorised(problem):
    """The best posterior with independent unknowns, which is what mean-field guides are after."""
    mean, precision = moments(problem)
    return {"beta": mean + precision.diagonal().rsqrt() * torch.randn(127, 2)}


def sometimes(problem):
    if float(problem.args[1].sum()) > 0:
        raise lvm.FitError("it did not want to.")
    return exact(problem)


SOME_DIE = 7
"""With this seed one simulation of three is killed."""


def killed(problem, seed):
    if seed % 3 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return exact(problem)


@pytest.fixture
def problem():
    return lvm.Problem(regression, X, torch.zeros(8))


def run(problem, method, simulations=300, **options):
    return lvm.calibrate(problem, method, simulations=simulations, workers=1, progress=False, **options)


# --- right and wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulations", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_exact_posterior_passes(problem, simulations):
    """The bounds are those of 1000 simulations, wider by as much as the errors of fewer are."""
    found, wider = run(problem, exact, simulations), (1000 / simulations) ** 0.5
    assert found.verdict.trusted, found
    assert list(found.statistics.index) == ["beta[one]", "beta[x]", "log_likelihood", "log_prior"]
    assert (found.statistics["ks"] < 0.070 * wider).all()
    assert (abs(found.statistics["cover90"] - 0.9) < 0.038 * wider).all()
    assert ((found.statistics["contraction"] > 0.2) | (found.statistics.index.str.startswith("log"))).all()


def test_the_prior_is_caught_by_the_likelihood_alone(problem):
    found = run(problem, prior)
    table = found.statistics
    assert found.verdict.status == "failed"
    assert list(table.index[table["status"] == "failed"]) == ["log_likelihood"]
    assert any(reason.text.startswith("log_likelihood: posterior too low") for reason in found.verdict.reasons)
    assert any("use all of the data" in step for step in found.verdict.next_steps)
    assert abs(table.loc["beta[x]", "contraction"]) < 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.6}, "too narrow: 90% intervals cover"),
        pytest.param({"scale": 1.6}, "too wide: 90% intervals cover", marks=pytest.mark.slow),
        pytest.param({"shift": 0.5}, "too high by 0.", marks=pytest.mark.slow),
        ({"shift": -0.5}, "too low by 0."),
    ],
)
def test_what_is_wrong_is_named(problem, options, words):
    found = run(problem, exact, 200, **options)
    row = found.statistics.loc["beta[x]"]
    assert found.verdict.status == "failed"
    assert row["status"] == "failed" and words in row["finding"]
    assert any(reason.text.startswith("beta[") and words in reason.text for reason in found.verdict.reasons)
    size = row["sd_ratio"] / options["scale"] if "scale" in options else row["bias"] / options["shift"]
    assert size == pytest.approx(1.0, abs=0.3)
    assert (row["symmetry_p"] < 0.01) == ("shift" in options)


def test_another_shape_is_named(problem):
    def skewed(problem):
        mean, precision = moments(problem)
        root = torch.linalg.inv(torch.linalg.cholesky(precision))
        return {"beta": mean + (-torch.rand(127, 2).log() - 1) @ root}

    found = run(problem, skewed, 300)
    row = found.statistics.loc["beta[x]"]
    assert row["status"] == "failed" and row["finding"].startswith("posterior ")
    assert abs(row["sd_ratio"] - 1) < 0.5 and row["symmetry_p"] < 0.01


def test_a_factorised_posterior_fails_where_unknowns_depend_on_each_other(problem):
    found = run(problem, factorised)
    assert found.verdict.status == "failed"
    _, precision = moments(problem)
    ratio = (precision.diagonal().rsqrt() / torch.linalg.inv(precision).diagonal().sqrt()).tolist()
    for label, wanted in zip(("beta[one]", "beta[x]"), ratio, strict=True):
        assert "too narrow" in found.statistics.loc[label, "finding"]
        assert found.statistics.loc[label, "sd_ratio"] == pytest.approx(wanted, rel=0.2)


def test_few_simulations_are_doubtful(problem):
    found = run(problem, exact, 20)
    assert found.verdict.status == "doubtful" and "gross errors only" in str(found.verdict)


def test_failing_fits_are_counted(problem):
    found = run(problem, sometimes, 60)
    (message, number), *rest = found.failures.items()
    assert message == "FitError: it did not want to." and 15 < number < 45 and not rest
    assert found.successes == 60 - number and found.simulations == 60
    assert found.verdict.status == "failed" and "gave no posterior" in found.verdict.reasons[0].text


def test_a_method_that_never_works_is_a_result(problem):
    def broken(problem):
        return {"other": torch.zeros(200)}

    found = run(problem, broken, 3)
    assert found.verdict.status == "failed" and found.successes == 0
    assert "no draws of latent site 'beta'" in str(found)
    with pytest.raises(lvm.ArgumentError, match="no ranks"):
        found.plot()


# --- what is ranked ---------------------------------------------------------------------------------------------------


def test_quantities_are_chosen_by_name_or_given(problem):
    named = run(problem, exact, 5, quantities=["beta"])
    given = run(problem, exact, 5, quantities={"product": lambda draw: draw["beta"].prod()})
    assert set(named.ranks) == {"beta", "log_likelihood", "log_prior"}
    assert set(given.ranks) == {"product", "log_likelihood", "log_prior"}
    truth = named.truth["beta"].prod("predictor")
    np.testing.assert_allclose(given.truth["product"], truth, rtol=1e-5)


def test_quantities_of_the_model_take_the_place_of_its_sites():
    problem = lvm.problem("gaussian_mixture")
    found = run(problem, mixture_prior, 2)
    assert set(found.ranks) == {*problem.quantities, "log_likelihood", "log_prior"}
    assert not set(found.ranks) & {site.name for site in problem.latents}


def mixture_prior(problem):
    from pyrolvm._program.simulate import Simulator

    simulator = Simulator.of(problem)
    draws = [simulator.draw(seed)[0] for seed in range(20)]
    return {site.name: torch.stack([draw[site.name] for draw in draws * 7]) for site in problem.continuous}


def test_ranks_are_counts_of_draws_below_the_truth(problem):
    held = {}

    def method(problem):
        draws = exact(problem)
        held["beta"] = draws["beta"]
        return draws

    found = run(problem, method, 1)
    truth = found.truth["beta"].values[0]
    np.testing.assert_array_equal(found.ranks["beta"].values[0], (held["beta"].numpy() < truth).sum(axis=0))
    np.testing.assert_allclose(found.data["posterior_mean"]["beta"].values[0], held["beta"].mean(0), rtol=1e-4)


def test_ties_take_any_place(problem):
    def constant(problem):
        return {"beta": torch.zeros(127, 2)}

    found = run(problem, constant, 40, quantities={"zero": lambda draw: 0 * draw["beta"].sum()})
    assert found.statistics.loc["zero", "p"] > 0.01 and len(np.unique(found.ranks["zero"])) > 25


def test_discrete_latents_are_ranked_too():
    def model(y):
        which = pyro.sample("which", dist.Categorical(torch.tensor([0.3, 0.7])))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(which * 1.0, 1.0), obs=y)

    def method(problem):
        y = problem.args[0]
        log_odds = dist.Normal(1.0, 1.0).log_prob(y).sum() - dist.Normal(0.0, 1.0).log_prob(y).sum()
        p = torch.sigmoid(log_odds + torch.tensor(7 / 3).log())
        return {"which": (torch.rand(200) < p).long()}

    found = run(lvm.Problem(model, torch.zeros(3)), method, 200)
    assert found.verdict.trusted and set(found.ranks) == {"which", "log_likelihood", "log_prior"}


# --- methods ----------------------------------------------------------------------------------------------------------


def test_a_guide_is_fitted_and_its_verdict_kept(problem):
    found = run(problem, "mean_field", 2, max_steps=60)
    assert found.method == "mean_field, max_steps=60"
    assert set(found.fits["status"]) <= {"trusted", "doubtful", "failed"}
    assert np.isfinite(found.fits["khat"]).all()
    direct = run(problem, functools.partial(lvm.fit, guide="mean_field", max_steps=60), 2)
    assert direct.ranks.equals(found.ranks)


def test_a_guide_function_is_a_guide(problem):
    def guide(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        pyro.sample("beta", dist.Normal(loc, 0.5).to_event(1))

    assert run(problem, guide, 2, max_steps=60).successes == 2


def test_chains_are_thinned_over_all_of_them(problem):
    found = run(problem, "nuts", 2, chains=2, warmup=100)
    assert found.successes == 2 and np.isfinite(found.fits["ess"]).all()


def test_results_are_asked_for_no_more_than_is_ranked(problem, monkeypatch):
    kept = []
    fit = lvm.fit
    monkeypatch.setattr(
        "pyrolvm._methods.fit.inference.fit", lambda *args, **options: kept.append(fit(*args, **options)) or kept[-1]
    )
    run(problem, "mean_field", 1, max_steps=60)
    assert set(kept[0].data.children) == {"posterior", "sample_stats", "optimization"}
    assert "posterior_predictive" in fit(problem, "mean_field", max_steps=60, progress=False).data.children


@pytest.mark.parametrize(
    ("method", "options", "error", "says"),
    [
        ("nutz", {}, lvm.UnknownNameError, "nuts"),
        ("mean_field", {"max_step": 3}, lvm.UnknownNameError, "max_steps"),
        ("mean_field", {"draws": 5}, lvm.ArgumentError, "draws"),
        ("mean_field", {"simulations": 0}, lvm.ArgumentError, "simulations"),
        ("mean_field", {"workers": 0}, lvm.ArgumentError, "workers"),
        ("mean_field", {"quantities": ["gamma"]}, lvm.UnknownNameError, "beta"),
        ("mean_field", {"resume": True}, lvm.ArgumentError, "out="),
        ("mean_field", {"max_steps": -1}, lvm.ArgumentError, "max_steps"),
        (lambda p: {}, {}, lvm.ArgumentError, "call its first argument problem"),
        (exact, {"draws": 128}, lvm.ArgumentError, "127 draws"),
        (exact, {"speed": 3}, lvm.UnknownNameError, "scale"),
    ],
)
def test_bad_input_is_said_before_the_work(problem, method, options, error, says):
    with pytest.raises(error, match=rf"(?s){says}") as raised:
        lvm.calibrate(problem, method, **{"simulations": 3, "workers": 1, "progress": False, **options})
    assert "Fix:" in str(raised.value)


# --- processes, folders, interrupts -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_that_dies_costs_its_simulation_alone_and_ranks_do_not_depend_on_processes(problem):
    found = lvm.calibrate(problem, killed, simulations=3, workers=2, progress=False, seed=SOME_DIE)
    assert found.successes == 2
    assert set(found.failures) == {"its process died, twice (exit code SIGKILL(-9))"}
    alone = run(problem, exact, 3, seed=SOME_DIE)
    lived = np.isin(alone.ranks["beta"]["simulation"], found.ranks["beta"]["simulation"])
    assert lived.sum() == 2
    np.testing.assert_array_equal(found.ranks["beta"], alone.ranks["beta"][lived])
    np.testing.assert_array_equal(found.truth["beta"], alone.truth["beta"][lived])


def test_what_cannot_be_pickled_runs_here_and_says_so(problem):
    lock = threading.Lock()

    def method(problem):
        with lock:
            return exact(problem)

    with pytest.warns(lvm.PyrolvmWarning, match="in this process"):
        found = lvm.calibrate(problem, method, simulations=4, workers=2, progress=False)
    assert found.ranks.equals(run(problem, exact, 4).ranks)


def test_more_processes_are_taken_where_they_pay(problem, monkeypatch):
    started = []
    monkeypatch.setattr(processes, "WORTH", 0.0)
    monkeypatch.setattr("pyrolvm._check.calibrate.inference.available", lambda: 2)
    monkeypatch.setattr(
        "pyrolvm._check.calibrate.inference.in_processes",
        lambda package, numbers, count: started.append((numbers, count)) or iter(()),
    )
    found = lvm.calibrate(problem, exact, simulations=8, progress=False)
    assert started == [([4, 5, 6, 7], 2)] and found.simulations == 4


def test_a_run_goes_on_where_it_was_cut(problem, tmp_path):
    whole = run(problem, exact, 12)
    run(problem, exact, 7, out=tmp_path / "c")
    (path,) = (tmp_path / "c").glob("*/simulations.jsonl")
    lines = path.read_bytes()
    (tmp_path / "c" / "manifest.json").unlink()
    path.write_bytes(lines[: lines.rindex(b'"ranks"') + 20])  # as a crash may leave it
    so_far = lvm.load(tmp_path / "c")
    assert so_far.simulations == 6 and so_far.interrupted
    assert so_far.ranks.equals(whole.ranks.isel(simulation=slice(6)))
    done = run(problem, exact, 12, out=tmp_path / "c", resume=True)
    assert done.ranks.equals(whole.ranks) and not done.interrupted


SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
from test_calibrate import X, exact, regression
import torch
import pyrolvm as lvm

def method(problem):
    time.sleep(0.05)
    return exact(problem)

lvm.calibrate(lvm.Problem(regression, X, torch.zeros(8)), method, simulations=40, workers=1, out={out!r}, progress=False)
"""


def test_a_kill_loses_nothing_that_was_done(problem, tmp_path):
    import time

    out = tmp_path / "c"
    script = SCRIPT.format(folder=str(Path(__file__).parent), out=str(out))
    with subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and sum(f.read_bytes().count(b"\n") for f in out.glob("*/*.jsonl")) < 3:
            time.sleep(0.02)
        process.kill()
    before = lvm.load(out)
    assert 3 <= before.simulations < 40
    whole = run(problem, exact, 40)
    assert before.ranks.equals(whole.ranks.isel(simulation=slice(before.simulations)))


def test_an_interrupt_returns_what_is_there(problem, tmp_path):
    begun = str(tmp_path / "begun")  # outside of the method, which would be another one if it held what changes

    def method(problem):
        with open(begun, "a") as file:
            file.write("x")
        if os.path.getsize(begun) == 5:
            raise KeyboardInterrupt
        return exact(problem)

    found = run(problem, method, 10, out=tmp_path / "c")
    assert found.interrupted and found.simulations == 4
    assert run(problem, method, 10, out=tmp_path / "c", resume=True).ranks.equals(run(problem, exact, 10).ranks)


def test_an_interrupt_that_the_method_swallows_is_heard(problem):
    calls = []

    def method(problem):
        calls.append(1)
        if len(calls) == 3:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass  # as fit and nuts, which keep what they have
        return exact(problem)

    assert run(problem, method, 10).simulations == 2


def test_a_folder_is_not_mixed_up(problem, tmp_path):
    run(problem, exact, 3, out=tmp_path / "c")
    with pytest.raises(lvm.StoreError, match="resume=True"):
        run(problem, exact, 3, out=tmp_path / "c")
    for other, what in (({"seed": 1}, "seed"), ({"draws": 63}, "ranked draws"), ({"scale": 2.0}, "options")):
        with pytest.raises(lvm.StoreError, match=f"another {what}"):
            run(problem, exact, 3, out=tmp_path / "c", resume=True, **other)
    with pytest.raises(lvm.StoreError, match=r"another (problem|data)"):
        run(lvm.Problem(regression, X + 1, torch.zeros(8)), exact, 3, out=tmp_path / "c", resume=True)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").write_text("mine")
    with pytest.raises(lvm.StoreError, match="not empty"):
        run(problem, exact, 3, out=tmp_path / "d")


def test_a_second_writer_is_refused(problem, tmp_path):
    from pyrolvm._runs.folder import RunFolder

    with (
        RunFolder.claimed(tmp_path / "c", "calibrate", {}),
        pytest.raises(lvm.StoreError, match=f"process {os.getpid()}"),
    ):
        run(problem, exact, 3, out=tmp_path / "c", resume=True)


# --- real methods, at length ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools_noncentered", "eight_schools_centered", "logistic_regression"])
def test_nuts_is_calibrated_on_the_zoo(name):
    found = lvm.calibrate(lvm.problem(name), "nuts", simulations=1000, progress=False)
    assert (found.statistics["ks"] < 0.070).all(), found
    assert found.verdict.status != "failed"


@pytest.mark.slow
def test_mean_field_is_not_calibrated_on_a_correlated_posterior(problem):
    found = lvm.calibrate(problem, "mean_field", simulations=200, progress=False)
    assert found.verdict.status == "failed"
    assert all("too narrow" in found.statistics.loc[label, "finding"] for label in ("beta[one]", "beta[x]"))
    assert lvm.calibrate(problem, "full_rank", simulations=200, progress=False).verdict.status != "failed"
