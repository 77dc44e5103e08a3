"""What a model does with its data: indices that are no groups, changes in place, gradients of tensors that are not its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([0.5, 1.0, -0.5, 2.0])
QUICK: dict[str, Any] = {"progress": False}


def grouped(pick: Callable[[Tensor, Any], Any]) -> Callable[[Any, Tensor], None]:
    """A model of four rows in three groups, whose index is used by ``pick``."""

    def model(g: Any, y: Tensor) -> None:
        with pyro.plate("groups", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        loc = pick(a, g)
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    return model


WAYS: dict[str, Callable[[Tensor, Any], Any]] = {
    "brackets": lambda a, g: a[g],
    "index_select": lambda a, g: a.index_select(0, g),
    "gather": lambda a, g: torch.gather(a, 0, g),
    "take": lambda a, g: a.take(g),
    "an embedding": lambda a, g: torch.nn.functional.embedding(g, a[:, None]).squeeze(-1),
    "Vindex": lambda a, g: Vindex(a)[g],
    "an ellipsis": lambda a, g: a[None][..., g].squeeze(0),
    "long of floats": lambda a, g: a[g.float().long()],
    "one row after another": lambda a, g: torch.stack([a[g[i]] for i in range(4)]),
    "iteration": lambda a, g: torch.stack([a[i] for i in g]),
    "Python's integers": lambda a, g: torch.stack([a[int(g[i])] for i in range(4)]),
    "a list": lambda a, g: a[g.tolist()],
    "NumPy": lambda a, g: a[torch.from_numpy(g.numpy())],
    "a column": lambda a, g: a[torch.stack([g, g], -1)[:, 1]],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_negative_group_is_no_group_whatever_way_it_is_an_index(way: str) -> None:
    codes = pd.Series(["a", "b", None, "c"]).astype("category").cat.codes
    with pytest.raises(lvm.DataError) as caught:
        lvm.Problem(grouped(WAYS[way]), codes, Y)
    assert "'g' has 1 negative value, the first (-1) at [2]" in str(caught.value)
    assert "test_usage.py" in str(caught.value)
    lvm.Problem(grouped(WAYS[way]), codes.where(codes >= 0, 0), Y)


def test_a_negative_index_is_found_in_a_table_and_in_what_is_computed_from_data() -> None:
    def nested(groups: Tensor, y: Tensor) -> None:
        grouped(lambda a, g: a[g[:, 1]])(groups, y)

    table = pd.DataFrame({"row": [0, 1, 2, 3], "group": [0, 1, -1, 2]})
    with pytest.raises(lvm.DataError, match=r"'groups' has 1 negative value, the first \(-1\) at \[2, 1\]"):
        lvm.Problem(nested, table, Y)
    with pytest.raises(lvm.DataError, match=r"computes an index from argument 'g' that is negative \(-1\) 1 times"):
        lvm.Problem(grouped(lambda a, g: a[g - 1]), np.array([1, 0, 2, 3]), Y)


def test_negative_integers_that_are_no_index_and_indices_of_the_models_own_are_allowed() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("groups", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(a[-1] + a[torch.tensor([-1, 0, 1, 2])] + x * a[..., -2], 1.0), obs=y)

    lvm.Problem(model, np.array([-1, 0, 1, -2]), Y)
    lvm.Problem(grouped(lambda a, g: torch.where(g < 0, 0.0, a[g.clamp(min=0)])), np.array([-1, 0, 1, 2]), Y)


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda x: x.add_(1.0),
    "an assignment": lambda x: x.__setitem__(0, 1.0),
    "a view": lambda x: x[1:].mul_(2.0),
    "an operator": lambda x: x.__imul__(2.0),
    "an output": lambda x: torch.exp(x, out=x),
    "an activation": lambda x: torch.nn.functional.relu(x, inplace=True),
    "its data": lambda x: x.data.zero_(),
    "NumPy's view": lambda x: x.numpy().__setitem__(0, 5.0),
}


@pytest.mark.parametrize("way", CHANGES)
def test_a_model_that_changes_its_data_is_named(way: str) -> None:
    def model(x: Tensor) -> None:
        CHANGES[way](x)
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=x)

    with pytest.raises(lvm.ProblemError, match=r"changes argument 'x' in place, .*Fix: work on a copy"):
        lvm.Problem(model, Y.clone())


def test_a_model_may_change_what_it_made_itself_and_not_what_lies_around_it() -> None:
    around = torch.zeros(4)

    def own(x: Tensor) -> None:
        shifted = x.clone()
        shifted += 1.0
        pyro.sample(
            "y", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).expand([4]).to_event(1), obs=shifted
        )

    def counter(x: Tensor) -> None:
        around.add_(1.0)
        own(x + around)

    lvm.Problem(own, Y)
    with pytest.raises(lvm.ProblemError, match="changes tensor 'around' of the scope around it in place"):
        lvm.Problem(counter, Y)


@pytest.mark.parametrize("engine", ["pyro", "auto"])
def test_no_gradient_is_left_on_tensors_that_are_not_fitted(engine: str) -> None:
    x = torch.arange(4.0).requires_grad_()
    net, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    had = torch.full((1, 1), 7.0)
    other.weight.grad = had

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(w * x + net(x[:, None]).squeeze(-1), 1.0), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("w", dist.Normal(loc + other(torch.ones(1)).squeeze(), 1.0))

    problem = lvm.Problem(model, x, Y)
    lvm.fit(problem, guide, max_steps=3, draws=20, engine=engine, **QUICK)
    lvm.nuts(problem, chains=1, warmup=3, draws=3, engine=engine, **QUICK)
    assert x.grad is None
    assert net.weight.grad is None
    assert net.bias.grad is None
    assert other.weight.grad is had
    assert float(had) == 7.0
    assert other.bias.grad is None


def test_a_tensor_of_inference_mode_in_the_scope_around_a_model_is_named() -> None:
    with torch.inference_mode():
        scale = torch.tensor(2.0)

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(mu * scale, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"'scale' .*inference_mode.*Fix: "):
        lvm.Problem(model, Y)


def test_dictionaries_and_lists_of_the_caller_stay_as_they_are() -> None:
    def take(data: Any) -> None:
        line(data.pop("y"))

    def divide(data: Any) -> None:
        data["y"] = data["y"] / 2
        line(data["y"])

    def append(data: Any) -> None:
        data["parts"].append(data["y"])
        line(data["y"])

    def add(data: Any) -> None:
        data["twice"] = 2 * data["y"]
        line(data["y"])

    def line(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = torch.ones(3)
    given = {"y": y, "parts": [y, y]}
    for model, word in ((take, r"\['y'\]"), (divide, r"\['y'\]"), (append, "longer list")):
        with pytest.raises(lvm.ProblemError, match=f"changes argument 'data' in place, .*{word}.*Fix: work on a copy"):
            lvm.Problem(model, given)
    assert lvm.Problem(add, given).observed
    assert given.keys() == {"y", "parts"} and len(given["parts"]) == 2 and given["y"] is y
