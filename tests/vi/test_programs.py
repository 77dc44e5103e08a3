"""What may be a guide or a model: functions, classes, instances, modules, learnable parameters, minibatches, devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

import pyrolvm as lvm

Short = Callable[..., lvm.Fit]


def by_hand(y: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(2, dtype=y.dtype))
    sd = pyro.param("sd", lambda: torch.full((2,), 0.3, dtype=y.dtype), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc[0], sd[0]))
    pyro.sample("scale", dist.LogNormal(loc[1], sd[1]))


class AsModule(nn.Module):
    """A guide as plain torch would have it: Pyro does not know its parameters by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(self.loc[0], 0.3))
        pyro.sample("scale", dist.LogNormal(self.loc[1], 0.3))


class AsPyroModule(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.sd = PyroParam(torch.full((2,), 0.3), constraint=constraints.positive)

    def forward(self, y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(self.loc[0], self.sd[0]))
        pyro.sample("scale", dist.LogNormal(self.loc[1], self.sd[1]))


def guides(problem: lvm.Problem) -> dict[str, Any]:
    return {
        "function": by_hand,
        "AutoGuide class": autoguide.AutoNormal,
        "AutoGuide instance": autoguide.AutoMultivariateNormal(problem.model, init_scale=0.2),
        "nn.Module": AsModule(),
        "PyroModule": AsPyroModule(),
        "recipe": lvm.guide("mean_field", init_scale=0.2, precondition="none"),
    }


@pytest.mark.parametrize(
    "kind", ["function", "AutoGuide class", "AutoGuide instance", "nn.Module", "PyroModule", "recipe"]
)
def test_every_kind_of_guide_is_trained(normal_problem: lvm.Problem, short: Short, kind: str) -> None:
    guide = guides(normal_problem)[kind]
    start = {k: v.clone() for k, v in guide.state_dict().items()} if isinstance(guide, nn.Module) else {}
    fit = short(normal_problem, guide, max_steps=120, tolerance=0, learning_rate=0.05, draws=300)
    assert fit.losses[-10:].mean() < fit.losses[:5].mean() - 0.3
    assert set(fit.data["posterior"].data_vars) == {"mean", "scale"}
    assert float(fit.data["posterior"]["scale"].min()) > 0
    draws = fit.sample(500)
    gap = abs(float(draws["mean"].mean() - fit.data["posterior"]["mean"].mean()))
    assert gap < 5 * float(draws["mean"].std()) / 300**0.5
    if start:  # the caller's module is not the one that was trained
        assert all(torch.equal(guide.state_dict()[name], value) for name, value in start.items())


def test_an_instance_can_be_fitted_twice_alike(normal_problem: lvm.Problem, short: Short) -> None:
    guide = autoguide.AutoNormal(normal_problem.model)
    first, second = (short(normal_problem, guide, seed=1) for _ in range(2))
    assert first.losses.tolist() == second.losses.tolist()


def test_log_q_is_the_density_of_the_guide(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, by_hand, max_steps=40, draws=60)
    loc, sd = fit.params["loc"], fit.params["sd"].exp()
    posterior = fit.data["posterior"]
    mean, scale = (torch.as_tensor(posterior[name].values) for name in ("mean", "scale"))
    wanted = dist.Normal(loc[0], sd[0]).log_prob(mean) + dist.LogNormal(loc[1], sd[1]).log_prob(scale)
    np.testing.assert_allclose(fit.log_q, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_log_p_is_the_density_of_the_model(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, draws=60)
    posterior = fit.data["posterior"]
    mean, scale = (torch.as_tensor(posterior[name].values)[0] for name in ("mean", "scale"))
    wanted = dist.Normal(0.0, 3.0).log_prob(mean) + dist.LogNormal(0.0, 1.0).log_prob(scale)
    wanted = wanted + dist.Normal(mean[:, None], scale[:, None]).log_prob(normal_problem.args[0]).sum(-1)
    np.testing.assert_allclose(fit.log_p[0], wanted.numpy(), rtol=1e-5)


def test_a_guide_that_misses_a_site_is_refused(normal_problem: lvm.Problem, short: Short) -> None:
    def half(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.raises(lvm.GuideError, match=r"no sample site 'scale' \(it has: mean\).*Fix:"):
        short(normal_problem, half)


def test_a_guide_of_another_support_is_refused(normal_problem: lvm.Problem, short: Short) -> None:
    def wide(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        pyro.sample("scale", dist.Normal(0.1, 1.0))

    with pytest.raises(lvm.GuideError, match=r"'scale'.*wider"):
        short(normal_problem, wide)


def test_a_guide_without_parameters_is_refused(normal_problem: lvm.Problem, short: Short) -> None:
    def fixed(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))

    with pytest.raises(lvm.GuideError, match="no learnable parameters"):
        short(normal_problem, fixed)


@pytest.mark.parametrize("guide", [3, nn.Linear, {"mean": 0}])
def test_what_is_no_guide_is_refused(normal_problem: lvm.Problem, short: Short, guide: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match="guide must be"):
        short(normal_problem, guide)


def test_the_bare_model_is_refused_with_the_remedy(normal_problem: lvm.Problem) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"lvm\.Problem\(normal"):
        lvm.fit(normal_problem.model, progress=False)  # type: ignore[arg-type]


def test_unknown_engines_are_refused(normal_problem: lvm.Problem, short: Short) -> None:
    with pytest.raises(lvm.UnknownNameError, match="engine"):
        short(normal_problem, engine="warp")


# --- learnable parameters of the model --------------------------------------------------------------------------------


def with_param(y: Tensor) -> None:
    noise = pyro.param("noise", lambda: torch.tensor(3.0), constraint=constraints.positive)
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, noise), obs=y)


def test_a_parameter_of_the_model_is_learnt_and_kept(make_data: Any, short: Short) -> None:
    y = make_data(rows=60)
    fit = short(lvm.Problem(with_param, y), max_steps=500, tolerance=0, learning_rate=0.05)
    assert float(fit.params["noise"].exp()) == pytest.approx(float(y.std()), rel=0.1)
    assert list(pyro.get_param_store().keys()) == []


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)


def factor_model(decoder: nn.Module) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        net = pyro.module("decoder", decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("guide", ["amortized", "mean_field"])
def test_a_module_of_the_model_is_learnt_and_given_back(short: Short, guide: str) -> None:
    torch.manual_seed(0)
    decoder = Decoder()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    x = 2.0 + torch.randn(30, 1) * torch.tensor([1.0, -1.0]) + 0.3 * torch.randn(30, 2)
    problem = lvm.Problem(factor_model(decoder), x)
    fit = short(problem, guide, max_steps=150, tolerance=0, learning_rate=0.05, batch_size=10)
    assert fit.losses[-10:].mean() < fit.losses[:5].mean() - 10
    name = "decoder$$$linear.bias"
    assert float((fit.params[name] - before["linear.bias"]).abs().max()) > 0.3
    after = decoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None for p in decoder.parameters())
    # The fitted decoder serves all that follows: its predictions are near the data, those of the old one are not.
    predicted = fit.data["posterior_predictive"]["x"].values.mean(axis=(0, 1, 2))
    assert np.abs(predicted - x.mean(0).numpy()).max() < 0.7
    again = fit.sample(200)
    assert abs(float(again["z"].mean() - fit.data["posterior"]["z"].mean())) < 0.1
    second = short(problem, guide, max_steps=150, tolerance=0, learning_rate=0.05, batch_size=10)
    assert second.losses.tolist() == fit.losses.tolist()


def test_a_model_without_latents_is_fitted_or_refused_in_words(make_data: Any, short: Short) -> None:
    def no_latent(y: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.tensor(0.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    y = make_data()
    try:
        fit = short(lvm.Problem(no_latent, y), max_steps=300, tolerance=0, learning_rate=0.05)
    except lvm.PyrolvmError as error:
        assert "Fix:" in str(error)
    else:
        assert float(fit.params["loc"]) == pytest.approx(float(y.mean()), abs=0.05)


# --- minibatches ------------------------------------------------------------------------------------------------------


def test_batch_size_uses_every_row_once_a_pass(make_data: Any, short: Short) -> None:
    seen: list[list[float]] = []
    watching = {"on": False}

    def watched(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        if watching["on"]:
            seen.append(y.tolist())
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def start(step: Any) -> None:
        watching["on"] = step.step < 4

    y = make_data(rows=12)
    short(
        lvm.Problem(watched, y), batch_size=3, max_steps=5, callbacks=[start], objective="Trace_ELBO", num_particles=1
    )
    assert [len(rows) for rows in seen] == [3] * 4
    # One trial batch came before: these are batches 3, 4 of the first pass and 1, 2 of the second, or a whole pass.
    assert len({value for rows in seen for value in rows}) >= 9


def test_a_model_that_subsamples_by_itself(make_data: Any, short: Short) -> None:
    def own(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 10.0))
        with pyro.plate("row", len(y), subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])

    y = make_data(rows=40)
    fit = short(lvm.Problem(own, y), max_steps=500, tolerance=0, draws=1000)
    posterior = fit.data["posterior"]["mean"].values
    assert posterior.mean() == pytest.approx(float(y.mean()), abs=0.1)
    assert posterior.std() == pytest.approx(40**-0.5, rel=0.25)
    # log p is of all rows, not of five.
    mean = torch.as_tensor(posterior)
    wanted = dist.Normal(0.0, 10.0).log_prob(mean) + dist.Normal(mean[..., None], 1.0).log_prob(y).sum(-1)
    np.testing.assert_allclose(fit.log_p, wanted.numpy(), rtol=1e-4)


def test_a_subsampling_guide_gets_the_rows_of_the_model(make_data: Any, short: Short) -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("row", len(y), subsample_size=4) as rows:
            local = pyro.sample("local", dist.Normal(y.new_tensor(0.0), 2.0))
            pyro.sample("y", dist.Normal(local, 0.5), obs=y[rows])

    def guide(y: Tensor) -> None:
        with pyro.plate("row", len(y), subsample_size=4):
            loc = pyro.param("loc", lambda: torch.zeros(len(y)), event_dim=0)
            pyro.sample("local", dist.Normal(loc, 0.45))

    y = make_data(rows=12)
    fit = short(lvm.Problem(model, y), guide, max_steps=400, tolerance=0, learning_rate=0.05)
    torch.testing.assert_close(fit.params["loc"], y * 4 / 4.25, atol=0.25, rtol=0)
    assert fit.data["posterior"]["local"].sizes["row"] == 12


def test_batches_larger_than_the_data_are_refused(normal_problem: lvm.Problem, short: Short) -> None:
    with pytest.raises(lvm.ArgumentError, match="batch_size=9 is larger than plate 'row', which has 8 rows"):
        short(normal_problem, batch_size=9)


def test_a_whole_batch_is_the_whole(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, batch_size=8, max_steps=100, tolerance=0)
    whole = short(normal_problem, max_steps=100, tolerance=0)
    assert fit.losses[-20:].mean() == pytest.approx(whole.losses[-20:].mean(), abs=0.5)


def test_two_plates_need_a_name(make_data: Any, short: Short) -> None:
    def two(x: Tensor, y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_tensor(0.0), 3.0))
        with pyro.plate("left", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        with pyro.plate("right", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    problem = lvm.Problem(two, make_data(rows=6), make_data(rows=9))
    with pytest.raises(lvm.ArgumentError, match="batch_plate='left'"):
        short(problem, batch_size=3)
    assert len(short(problem, batch_size=3, batch_plate="right").losses) == 30
    with pytest.raises(lvm.ArgumentError, match="'middle' cannot be subsampled"):
        short(problem, batch_size=3, batch_plate="middle")


def test_rows_outside_the_plate_are_refused(make_data: Any, short: Short) -> None:
    def outside(x: Tensor, y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_tensor(0.0), 3.0))
        pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match="'x' shrinks"):
        short(lvm.Problem(outside, make_data(), make_data()), batch_size=4)


# --- dtype and device -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guide",
    ["mean_field", "full_rank", "flow", by_hand, autoguide.AutoNormal],
    ids=lambda guide: getattr(guide, "__name__", guide),
)
@pytest.mark.parametrize("by", ["argument", "data"])
def test_float64_is_float64_throughout(
    make_data: Any, normal_problem: lvm.Problem, short: Short, guide: Any, by: str
) -> None:
    if by == "data":
        fit = short(lvm.Problem(normal_problem.model, make_data(torch.float64)), guide, max_steps=5)
    else:
        fit = short(normal_problem, guide, max_steps=5, dtype=torch.float64)
    assert {value.dtype for value in fit.params.values() if value.is_floating_point()} == {torch.float64}
    for group in ("posterior", "unconstrained_posterior", "log_likelihood", "posterior_predictive"):
        assert {str(value.dtype) for value in fit.data[group].data_vars.values()} == {"float64"}, group
    assert str(fit.sample(3)["mean"].dtype) == "float64"
    assert torch.get_default_dtype() == torch.float32


def test_float32_stays_float32(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, max_steps=5)
    assert {str(value.dtype) for value in fit.data["posterior"].data_vars.values()} == {"float32"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_an_absent_gpu_is_an_argument_error(normal_problem: lvm.Problem, short: Short) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"no CUDA device.*Fix: use device='cpu'"):
        short(normal_problem, device="cuda")


def test_what_is_no_device_is_refused(normal_problem: lvm.Problem, short: Short) -> None:
    with pytest.raises(lvm.ArgumentError, match="device 'gpu'"):
        short(normal_problem, device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("guide", ["mean_field", "full_rank", "amortized"])
def test_fit_on_cuda_agrees_with_the_cpu(make_data: Any, guide: str) -> None:
    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        with pyro.plate("row", len(y)):
            local = pyro.sample("local", dist.Normal(mean, 1.0))
            pyro.sample("y", dist.Normal(local, 1.0), obs=y)

    problem = lvm.Problem(model, make_data(rows=20))
    options = {"max_steps": 600, "tolerance": 0, "draws": 2000, "progress": False, "batch_size": 10}
    if guide == "full_rank":
        options.pop("batch_size")
    before = torch.cuda.get_rng_state()
    gpu, again, cpu = (lvm.fit(problem, guide, device=device, **options) for device in ("cuda", "cuda", "cpu"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert gpu.losses.tolist() == pytest.approx(again.losses.tolist(), rel=1e-4)
    assert gpu.elbo == pytest.approx(cpu.elbo, abs=0.5)
    assert float(gpu.data["posterior"]["mean"].mean()) == pytest.approx(
        float(cpu.data["posterior"]["mean"].mean()), abs=0.1
    )
    assert gpu.sample(10)["local"].shape == (1, 10, 20)
