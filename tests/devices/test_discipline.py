"""Fits, chains, streams, checkpoints and results keep to the device that they were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from tests.devices.record import cell
from tests.devices.simulated import DEVICE, simulated_cuda

Y = torch.tensor([0.3, -0.2, 0.6, 0.1, -0.7, 0.4])


def groups(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        local = pyro.sample("local", dist.Normal(mean, 1.0))
        pyro.sample("y", dist.Normal(local, 1.0), obs=y)


def constant(y: Tensor) -> None:
    scale = torch.ones(len(y), device="cpu")
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def fit(problem: lvm.Problem, guide: Any = None, **options: Any) -> lvm.Fit:
    """Without a frame, which the default guide is tried with, where no guide is given."""
    guide = lvm.guide("mean_field", precondition="none") if guide is None else guide
    return lvm.fit(problem, guide, **{"device": "cuda", "max_steps": 4, "draws": 20, "progress": False, **options})


@pytest.mark.parametrize("engine", ["torch", "pyro"])
def test_a_fit_there_is_the_fit_here(engine: str) -> None:
    problem = lvm.Problem(groups, Y)
    here = fit(problem, device="cpu", engine="pyro")
    with simulated_cuda():
        there = fit(problem, engine=engine)
    assert there.losses.tolist() == pytest.approx(here.losses.tolist(), rel=1e-2)
    for group in ("posterior", "log_likelihood", "posterior_predictive", "unconstrained_posterior"):
        for name, values in there.data[group].data_vars.items():
            assert type(values.values) is np.ndarray, name
            assert np.isfinite(values.values).all(), name


def test_the_default_guide_with_its_frame() -> None:
    with simulated_cuda():
        result = fit(lvm.Problem(groups, Y), "auto")
        assert result.sample(5)["local"].shape == (1, 5, 6)


def test_minibatches() -> None:
    with simulated_cuda():
        result = fit(lvm.Problem(groups, Y), batch_size=3)
    assert np.isfinite(result.losses).all()


def test_a_stream_is_moved_batch_by_batch() -> None:
    def model(y: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros(()))
        with pyro.plate("row", len(y)):
            local = pyro.sample("local", dist.Normal(mean, 1.0))
            pyro.sample("y", dist.Normal(local, 1.0), obs=y)

    rows = torch.utils.data.TensorDataset(torch.arange(12.0))
    with simulated_cuda():
        result = fit(lvm.Problem(model, lvm.stream(rows, batch_size=4)), guide="amortized")
    assert np.isfinite(result.losses).all()


def test_checkpoints_and_results_are_read_where_there_is_no_device(tmp_path: Path) -> None:
    problem = lvm.Problem(groups, Y)
    with simulated_cuda():
        result = fit(problem, out=tmp_path / "run")
    loaded = lvm.load(tmp_path / "run", problem=problem)
    assert loaded.data["posterior"]["mean"].values.tolist() == result.data["posterior"]["mean"].values.tolist()
    assert loaded.sample(3)["local"].shape == (1, 3, 6)


def test_chains() -> None:
    with simulated_cuda():
        chains = lvm.nuts(lvm.Problem(groups, Y), device="cuda", warmup=20, draws=10, chains=2, progress=False)
    assert np.isfinite(chains.data["sample_stats"]["lp"].values).all()


@pytest.mark.slow
def test_a_problem_of_the_zoo() -> None:
    assert cell(lvm.problem("factor_analysis"), "amortized") == "clean"


def test_a_constant_on_the_processor_is_named() -> None:
    with simulated_cuda(), pytest.raises(lvm.ProblemError, match=r"constant.*cuda:0 and on cpu"):
        fit(lvm.Problem(constant, Y))


def test_the_users_tensors_stay_where_they_are() -> None:
    net = torch.nn.Linear(1, 1)

    def model(net: torch.nn.Module, y: Tensor) -> None:
        pyro.module("net", net)
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean + net(y[:, None]).squeeze(-1), 1.0), obs=y)

    before = net.weight.detach().clone()
    with simulated_cuda():
        result = fit(lvm.Problem(model, net, Y))
        assert result.params["net$$$weight"].device in (DEVICE, torch.device("cpu"))
    assert net.weight.device.type == "cpu"
    assert torch.equal(net.weight.detach(), before)


@pytest.mark.slow
@pytest.mark.parametrize("problem", sorted(lvm.problems(ready=True)))
def test_every_problem_with_its_default_guide(problem: str) -> None:
    assert cell(lvm.problem(problem), "auto") == "clean"


@pytest.mark.slow
@pytest.mark.parametrize("guide", sorted(lvm.guides()))
@pytest.mark.parametrize("problem", ["eight_schools", "factor_analysis", "vae"])
def test_every_guide(problem: str, guide: str) -> None:
    assert cell(lvm.problem(problem), guide) in ("clean", "not for it")
