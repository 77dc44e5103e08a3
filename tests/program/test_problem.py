"""Problems: other views of them, minibatches, and that they do not change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._program.density import Joint

Y = torch.arange(6.0)


def line(x: Tensor, y: Tensor, *, shift: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w * x + z, 1.0), obs=y)


def indexed(y: Tensor) -> None:
    """Subsampling in Pyro's own style."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=2) as i:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])


def two_plates(x: Tensor, y: Tensor) -> None:
    with pyro.plate("left", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
    with pyro.plate("right", len(y)):
        pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def crossed(y: Tensor) -> None:
    """Rows of the data outside, columns inside."""
    with pyro.plate("row", y.shape[0], dim=-2):
        r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with pyro.plate("column", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(r, 1.0), obs=y)


def _trace(problem: lvm.Problem, batch: Any) -> Any:
    with runtime.session(seed=0, dtype=problem.dtype), batch.active():
        trace = poutine.trace(problem.model).get_trace(*batch.args, **batch.kwargs)
        trace.compute_log_prob()
    return trace


# --- immutability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "args", "sites", "name", "anything"])
def test_attributes_cannot_be_set(name: str) -> None:
    problem = lvm.Problem(line, Y, Y)
    with pytest.raises(AttributeError, match=f"immutable, cannot set '{name}'"):
        setattr(problem, name, None)


@pytest.mark.parametrize("name", ["kwargs", "sites", "plates", "parameters", "arguments"])
def test_mappings_cannot_be_changed(name: str) -> None:
    problem = lvm.Problem(line, Y, y=Y)
    with pytest.raises(TypeError):
        getattr(problem, name)["y"] = None


def test_inference_changes_no_argument() -> None:
    net = torch.nn.Linear(1, 1)

    def model(net: torch.nn.Module, y: Tensor) -> None:
        pyro.module("net", net)
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(w * net(y[:, None]).squeeze(-1), 1.0), obs=y)

    weight, y = net.weight.detach().clone(), Y.clone()
    problem = lvm.Problem(model, net, y)
    fingerprint = problem.fingerprint
    fit = lvm.fit(problem, "mean_field", max_steps=20, draws=5, progress=False)
    assert not torch.equal(fit.params["net$$$weight"], weight)
    torch.testing.assert_close(net.weight.detach(), weight, rtol=0, atol=0)
    torch.testing.assert_close(y, Y, rtol=0, atol=0)
    assert lvm.Problem(model, net, y).fingerprint == fingerprint


# --- to ---------------------------------------------------------------------------------------------------------------


def test_to_converts_floats_alone() -> None:
    def model(x: Tensor, n: Tensor, size: int) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[0])

    problem = lvm.Problem(model, Y, [1, 2], 3)
    moved = problem.to(dtype=torch.float64)
    assert (problem.dtype, moved.dtype) == (torch.float32, torch.float64)
    assert [value.dtype for value in moved.args[:2]] == [torch.float64, torch.int64] and moved.args[2] == 3
    assert problem.args[0].dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    assert problem.to() is problem and problem.to(dtype=torch.float32, device="cpu") is problem


def test_to_keeps_names_and_source() -> None:
    problem = lvm.problem("eight_schools")
    moved = problem.to(dtype=torch.float64)
    assert (moved.name, moved.source, moved.dims, moved.coords) == (
        problem.name,
        problem.source,
        problem.dims,
        problem.coords,
    )


def test_to_without_data_changes_what_is_made_inside() -> None:
    def model() -> None:
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    moved = lvm.Problem(model).to(dtype=torch.float64)
    assert moved.dtype == torch.float64
    with runtime.session(seed=0, dtype=moved.dtype):
        assert Joint(moved).constrain(torch.zeros(2))["w"].dtype == torch.float64


class Net(PyroModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def forward(self, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(w + self.net(y[:, None]).squeeze(-1), 1.0), obs=y)


def test_to_copies_a_model_that_is_a_module() -> None:
    model = Net()
    problem = lvm.Problem(model, Y)
    moved = problem.to(dtype=torch.float64)
    assert moved.model.net.weight.dtype == torch.float64
    assert model.net.weight.dtype == torch.float32 and problem.model is model
    fit = lvm.fit(problem, "mean_field", dtype=torch.float64, max_steps=5, draws=5, progress=False)
    assert fit.params["net$$$weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype must be a floating torch dtype, got 'float64'"),
        ({"dtype": torch.int32}, r"dtype must be a floating torch dtype, got torch\.int32"),
        ({"device": "gpu"}, "device 'gpu' is not one of torch's"),
        ({"device": 1.5}, r"device 1\.5 is not one of torch's"),
    ],
)
def test_to_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=message + ".*Fix: "):
        lvm.Problem(line, Y, Y).to(**options)


# --- minibatches ------------------------------------------------------------------------------------------------------


def test_a_batch_slices_rows_and_scales_the_plate() -> None:
    problem = lvm.Problem(line, Y, Y, shift=torch.zeros(6))
    batch = problem.batch(torch.tensor([4, 1]))
    assert [value.tolist() for value in batch.args] == [[4.0, 1.0], [4.0, 1.0]]
    assert batch.kwargs["shift"].shape == (2,)
    trace = _trace(problem, batch)
    assert trace.nodes["rows"]["value"].tolist() == [4, 1]
    assert {name: trace.nodes[name]["scale"] for name in ("w", "z", "y")} == {"w": 1.0, "z": 3.0, "y": 3.0}


def test_a_batch_of_a_model_that_indexes_by_itself() -> None:
    problem = lvm.Problem(indexed, Y)
    batch = problem.batch(torch.tensor([5, 0, 3]))
    assert batch.args[0] is problem.args[0]
    trace = _trace(problem, batch)
    assert trace.nodes["y"]["value"].tolist() == [5.0, 0.0, 3.0] and trace.nodes["y"]["scale"] == 2.0
    whole = _trace(problem, problem.whole)
    assert whole.nodes["y"]["value"].tolist() == Y.tolist() and whole.nodes["y"]["scale"] == 1.0


def test_outside_a_batch_plates_are_as_written() -> None:
    problem = lvm.Problem(line, Y, Y)
    with problem.batch(torch.tensor([4, 1])).active():
        pass
    assert _trace(problem, problem.whole).nodes["y"]["scale"] == 1.0
    assert problem.batch() is problem.whole


def test_several_plates_must_be_chosen_from() -> None:
    problem = lvm.Problem(two_plates, torch.zeros(3), Y)
    with pytest.raises(lvm.ArgumentError, match=r"rows of 'left' or 'right'.*Fix: name one.*batch_plate='left'"):
        problem.batch(torch.tensor([0]))
    batch = problem.batch(torch.tensor([5, 2, 1]), plate="right")
    assert batch.args[0].shape == (3,) and batch.args[1].tolist() == [5.0, 2.0, 1.0]
    with pytest.raises(lvm.ArgumentError, match=r"plate 'middle' cannot be subsampled.*Fix: use one of left, right"):
        problem.batch(torch.tensor([0]), plate="middle")


def test_rows_of_nested_plates_are_those_of_the_data() -> None:
    problem = lvm.Problem(crossed, torch.arange(12.0).reshape(4, 3))
    batch = problem.batch(torch.tensor([3, 1]))
    assert batch.args[0].tolist() == [[9.0, 10.0, 11.0], [3.0, 4.0, 5.0]]
    trace = _trace(problem, batch)
    assert trace.nodes["y"]["scale"] == 2.0 and trace.nodes["r"]["value"].shape == (2, 1)


@pytest.mark.parametrize("indices", [[], [6], [-1], [[0, 1]]])
def test_rows_out_of_range_are_refused(indices: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"rows between 0 and 5 of plate 'rows'.*Fix: "):
        lvm.Problem(line, Y, Y).batch(torch.tensor(indices, dtype=torch.long))


def test_a_model_without_rows_has_no_batches() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0).expand([6]).to_event(1), obs=y)

    with pytest.raises(lvm.ArgumentError, match=r"model has none.*Fix: "):
        lvm.Problem(model, Y).batch(torch.tensor([0]))


@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_every_pass_of_minibatches_takes_each_row_once(size: int) -> None:
    from itertools import islice

    from pyrolvm._program.batching import Minibatches

    problem = lvm.Problem(line, Y, Y)
    with runtime.session(seed=0):
        batches = list(islice(iter(Minibatches(problem, problem.plates["rows"], size)), 6))
    rows = torch.cat([batch.plates["rows"].indices for batch in batches])
    assert all(len(batch.args[0]) == size for batch in batches)
    for start in range(0, 6 * size, 6):
        assert sorted(rows[start : start + 6].tolist()) == list(range(6))


# --- errors name the model's line -------------------------------------------------------------------------------------


def test_the_deepest_line_of_the_user_is_named() -> None:
    def helper(x: Tensor) -> Tensor:
        return x @ torch.zeros(7)  # the line to name

    def model(y: Tensor) -> None:
        pyro.sample("x", dist.Normal(helper(y), 1.0))

    with pytest.raises(
        lvm.ProblemError, match=r"test_problem\.py:\d+: `return x @ torch\.zeros\(7\)  # the line to name`"
    ):
        lvm.Problem(model, Y)


def test_a_density_that_fails_names_its_site_and_shapes() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("fine", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(torch.zeros(2, 6), 1.0).to_event(1), obs=y > 1)

    with pytest.raises(
        lvm.ProblemError, match=r"site 'y', whose value has shape \(6,\) and whose distribution \(2, 6\)"
    ):
        lvm.Problem(model, Y)


def test_a_part_is_replaced_in_another_problem_that_keeps_nothing_of_what_depends_on_it() -> None:
    problem = lvm.Problem(line, torch.ones(3), torch.zeros(3))
    problem.kept["frames"] = {}
    info = dataclasses.replace(problem.info, dims={"y": ["row"]}, coords={"row": ["a", "b", "c"]})
    before = problem.dims
    other = problem.replace(name="other", info=info)
    assert (other.name, other.dims["y"], other.coords) == ("other", ["row"], {"row": ["a", "b", "c"]})
    assert other.kept == {} and problem.kept == {"frames": {}}
    assert (problem.name, problem.dims, problem.coords) == ("line", before, {})
    assert problem.replace(name="other").kept is problem.kept
    with pytest.raises(AttributeError, match="immutable"):
        other.name = "line"
