"""Many short chains on the captured density: their draws, what is tuned, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._methods.kernels import chains as running
from pyrolvm._methods.kernels.chains import lanes
from pyrolvm._methods.kernels.kinds import KERNELS
from pyrolvm._methods.kernels.tuning import Whole

COVARIANCE = torch.tensor([[1.0, 0.9, 0.0, 0.0], [0.9, 1.0, 0.0, 0.0], [0.0, 0.0, 100.0, 3.0], [0.0, 0.0, 3.0, 1.0]])
MEANS, SDS = np.array([0.75, 1.775, 3.0, 4.0]), np.array([0.5**0.5, 0.595**0.5, 10.0, 1.0])
QUIET: dict[str, Any] = {"progress": False, "seed": 1}


def correlated(y: torch.Tensor) -> None:
    x = pyro.sample("x", dist.MultivariateNormal(torch.tensor([1.0, 2.0, 3.0, 4.0]), COVARIANCE))
    pyro.sample("y", dist.Normal(x[0], 1.0), obs=y)


def single(y: torch.Tensor) -> None:
    pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def reads(y: torch.Tensor) -> None:
    a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a if float(b.detach()) > 0 else 2 * a, 1.0), obs=y)


@pytest.fixture(scope="module")
def problem() -> lvm.Problem:
    return lvm.Problem(correlated, torch.tensor(0.5))


def off(result: lvm.Chains) -> tuple[float, float]:
    """The largest error of a mean, in standard errors, and of an sd as a ratio."""
    x = result.data["posterior"]["x"].values.reshape(-1, 4).astype(float)
    table = lvm.diagnose(result).table.loc[[f"x[{i}]" for i in range(4)]]
    z = np.abs(x.mean(0) - MEANS) / (SDS / np.sqrt(table["ess_bulk"].values))
    return float(z.max()), float(np.abs(np.log(x.std(0) / SDS)).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "mams" else [pytest.mark.slow]) for name in KERNELS]
)
@pytest.mark.parametrize("precondition", [pytest.param("auto", marks=pytest.mark.slow), "none"])
def test_moments_of_a_gaussian_are_right(problem: lvm.Problem, name: str, precondition: str) -> None:
    found = lvm.sample(problem, kernel=name, precondition=precondition, **QUIET)
    z, ratio = off(found)
    assert z < 4 and ratio < 0.06
    assert found.data["posterior"].sizes["chain"] == 64 and found.data["posterior"].attrs["superchains"] == 8
    assert found.verdict.status == ("trusted" if KERNELS[name].exact else "doubtful")
    assert ("biased" in str(found.verdict)) is not KERNELS[name].exact


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if kernel.exact])
def test_long_chains_have_no_bias(problem: lvm.Problem, name: str) -> None:
    z, ratio = off(lvm.sample(problem, kernel=name, draws=2_000, **QUIET))
    assert z < 4 and ratio < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_chains_side_by_side_are_each_alone(
    problem: lvm.Problem, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kernel": name, "chains": 16, "warmup": 60, "draws": 12, "dtype": torch.float64, **QUIET}
    together = lvm.sample(problem, **options)
    monkeypatch.setattr(running, "LANE", 1)
    monkeypatch.setattr(running, "lanes", lambda chains: 1)
    alone = lvm.sample(problem, **options)
    np.testing.assert_allclose(together.data["posterior"]["x"], alone.data["posterior"]["x"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_a_stopped_run_goes_on_to_the_same_draws(problem: lvm.Problem, name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kernel": name, "chains": 16, "warmup": 60, "draws": 40, "seed": 1}
    whole = lvm.sample(problem, progress=False, **options)

    def stop(done: int, total: int, text: str) -> None:
        if total > done > 0:
            raise KeyboardInterrupt

    stopped = lvm.sample(problem, progress=stop, out=tmp_path / "run", checkpoint_every=1e-6, **options)
    reached = stopped.data["posterior"].sizes["draw"]
    assert 0 < reached < 40 and f"{reached:,} of 40 draws" in str(lvm.diagnose(stopped).verdict)
    again = lvm.sample(problem, progress=False, out=tmp_path / "run", resume=True, **options)
    np.testing.assert_array_equal(whole.data["posterior"]["x"], again.data["posterior"]["x"])


@pytest.mark.slow
def test_groups_that_are_in_two_modes_are_not_trusted() -> None:
    def modes(y: torch.Tensor) -> None:
        x = pyro.sample("x", dist.Normal(1.0, 5.0).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal(x[0] ** 2, 1.0), obs=y)

    found = lvm.sample(lvm.Problem(modes, torch.tensor(36.0)), precondition="none", **QUIET)
    assert found.verdict.status != "trusted"


@pytest.mark.slow
def test_the_command_runs_and_a_saved_run_is_read(tmp_path: Path) -> None:
    from pyrolvm._cli import main

    words = [
        "mcmc",
        "eight_schools",
        "--chains",
        "16",
        "--warmup",
        "60",
        "--draws",
        "20",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(words) in (0, 1)
    assert lvm.load(tmp_path / "a").data["posterior"].sizes["chain"] == 16


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": "nut"}, "kernel"),
        ({"superchains": 7}, "does not divide chains=64"),
        ({"warmup": 3}, "warmup"),
        ({"kernel": "meads", "chains": 10}, "tuned across chains"),
    ],
)
def test_what_does_not_go_together_is_refused(problem: lvm.Problem, options: dict[str, Any], words: str) -> None:
    with pytest.raises(lvm.PyrolvmError, match=words):
        lvm.sample(problem, **options, **QUIET)


def test_one_unknown_has_no_directions() -> None:
    with pytest.raises(lvm.ArgumentError, match="has none"):
        lvm.sample(lvm.Problem(single, torch.tensor(0.5)), kernel="mams", **QUIET)


@pytest.mark.slow
def test_one_unknown_is_sampled_all_the_same() -> None:
    found = lvm.sample(lvm.Problem(single, torch.tensor(0.5)), **QUIET)
    m = found.data["posterior"]["m"].values
    assert found.name == "barker" and found.verdict.trusted
    assert abs(m.mean() - 0.25) < 0.05 and abs(m.std() / 0.5**0.5 - 1) < 0.05


def test_a_model_that_reads_values_is_sent_to_nuts() -> None:
    with pytest.raises(lvm.CaptureError, match=r"Fix: use lvm\.nuts"):
        lvm.sample(lvm.Problem(reads, torch.tensor(0.5)), precondition="none", **QUIET)


def test_without_blackjax_the_remedy_is_named(problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(lvm.ArgumentError, match=r"cannot be imported.*Fix: pip install 'blackjax>="):
        lvm.sample(problem, **QUIET)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chains", "size"), [(1, 1), (8, 8), (64, 32), (100, 25), (512, 32), (67, 67), (34, 17)])
def test_lanes_divide_chains_evenly(chains: int, size: int) -> None:
    assert lanes(chains) == size


@pytest.mark.parametrize(
    "whole", [Whole(np.ones(2), np.array([2.0, 3.0])), Whole(np.ones(2), np.array([[2.0, 0.0], [1.0, 3.0]]))]
)
@pytest.mark.parametrize("scales", [np.array([4.0, 9.0]), np.array([[4.0, 1.0], [1.0, 9.0]])])
def test_new_coordinates_make_draws_standard(whole: Whole, scales: np.ndarray[Any, Any]) -> None:
    mean = np.array([1.0, -2.0])
    covariance = np.diag(scales) if scales.ndim == 1 else scales
    x = mean + np.random.default_rng(0).normal(size=(100_000, 2)) @ np.linalg.cholesky(covariance).T
    new = whole.moved(mean, scales, 1e9)
    found = new.inverse(whole.plain(x))
    np.testing.assert_allclose(found.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), np.eye(2), atol=0.02)
    np.testing.assert_allclose(new.plain(found), whole.plain(x))
