"""Calls as people make them: words of other libraries, contexts that are open, seeds, folders and devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as numpyro_dist
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pyrolvm as lvm

X, Y = torch.arange(6.0), torch.tensor([0.1, 1.2, 1.9, 3.2, 3.9, 5.1])
QUIET: dict[str, Any] = {"progress": False}


def line(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, s), obs=y)


@pytest.fixture(scope="module")
def problem() -> lvm.Problem:
    return lvm.Problem(line, X, Y)


WORDS = [
    ("fit", "lr", "learning_rate"),
    ("fit", "num_steps", "max_steps"),
    ("fit", "epochs", "rows / batch_size"),
    ("fit", "batch", "batch_size"),
    ("fit", "num_samples", "draws"),
    ("fit", "learningrate", "learning_rate"),
    ("fit", "data", "lvm.Problem"),
    ("nuts", "num_warmup", "warmup"),
    ("nuts", "tune", "warmup"),
    ("nuts", "cores", "without being told"),
    ("nuts", "target_accept_prob", "target_accept"),
    ("nuts", "guide", "init=fit"),
    ("infer", "n_samples", "draws"),
    ("infer", "num_chains", "has no chains"),
    ("exact", "random_state", "seed"),
    ("evidence", "rng_key", "seed"),
    ("evaluate", "n_draws", "draws"),
    ("calibrate", "n_jobs", "workers"),
    ("sweep", "num_workers", "workers"),
    ("diagnose", "unheard_of", "max_quantities"),
]


@pytest.mark.parametrize(("verb", "word", "ours"), WORDS)
def test_a_word_of_another_library_is_translated(problem: lvm.Problem, verb: str, word: str, ours: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=rf"lvm.{verb} takes no argument '{word}'. Fix: .*{ours}") as caught:
        getattr(lvm, verb)(problem, **{word: 1})
    assert isinstance(caught.value, TypeError)


CALLS: dict[str, tuple[Callable[[lvm.Problem], Any], str]] = {
    "a model and its data": (lambda p: lvm.fit(line, X, Y), r"lvm.fit\(lvm.Problem\(line, \*data\)\)"),
    "a model and one argument": (lambda p: lvm.fit(line, X), r"lvm.Problem\(line, \*data\)"),
    "a problem and data": (lambda p: lvm.nuts(p, X, Y), "data go to the problem"),
    "a problem and a tensor": (lambda p: lvm.fit(p, X), r"got tensor\(.*; data go to the problem"),
    "a problem and a table": (
        lambda p: lvm.fit(p, pd.DataFrame({"x": [1.0]})),
        "data go to the problem, together with the model",
    ),
    "a problem as guide": (lambda p: lvm.fit(p, p), "guide must be a name.*got Problem"),
    "a loader": (lambda p: lvm.fit(p, DataLoader(TensorDataset(X))), r"\*lvm.stream\(loader\)"),
    "a loader as data": (lambda p: lvm.Problem(line, DataLoader(TensorDataset(X))), r"\*lvm.stream\(loader\)"),
    "a table that lacks a column": (
        lambda p: lvm.Problem(line, pd.DataFrame({"x": X, "outcome": Y})),
        "it has none called 'y'.*rename them",
    ),
    "a problem as model": (lambda p: lvm.Problem(p, X), "a Problem already"),
    "the result of a model": (lambda p: lvm.Problem(None, X), "the result of a call"),  # type: ignore[arg-type]
    "a Stan program": (lambda p: lvm.Problem("schools.stan", X), "another language"),  # type: ignore[arg-type]
    "another library's model": (lambda p: lvm.infer(_elsewhere()), "it is of PyMC"),
}


def _elsewhere() -> Any:
    return type("Model", (), {"__module__": "pymc.model.core"})()


@pytest.mark.parametrize("call", CALLS)
def test_what_is_in_the_wrong_place_is_told_where_it_belongs(problem: lvm.Problem, call: str) -> None:
    make, message = CALLS[call]
    with pytest.raises(lvm.PyrolvmError, match=f"{message}(.|\n)*") as caught:
        make(problem)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize("where", ["latent", "observed"])
def test_a_distribution_of_another_library_is_named_with_its_site(where: str) -> None:
    def model(y: Tensor) -> None:
        pyro.sample("mu", (numpyro_dist if where == "latent" else dist).Normal(0.0, 1.0))
        pyro.sample("y", (numpyro_dist if where == "observed" else dist).Normal(0.0, 1.0), obs=y)

    with pytest.raises(
        lvm.ProblemError, match=r"site '(mu|y)' has a Normal that is no distribution of Pyro; it is of NumPyro"
    ):
        lvm.Problem(model, torch.tensor(1.0))


def test_a_program_that_runs_into_another_library_is_told_which() -> None:
    import numpyro

    def model(y: Tensor) -> None:
        numpyro.sample("mu", numpyro_dist.Normal(0.0, 1.0))

    with pytest.raises(lvm.ProblemError, match=r"runs into NumPyro: write the model with pyro.sample"):
        lvm.Problem(model, Y)


@contextmanager
def _half() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "a default device": lambda: torch.device("meta"),
    "a default dtype": _half,
}


def _everything() -> list[Tensor]:
    problem = lvm.Problem(line, X.numpy(), Y.tolist())
    fit = lvm.fit(problem, AutoNormal, max_steps=10, draws=20, engine="pyro", **QUIET)
    chains = lvm.nuts(problem, chains=1, warmup=20, draws=10, precondition="none", **QUIET)
    best = lvm.infer(problem, methods=["student"], draws=50, **QUIET)
    values = [
        *(result.data["posterior"]["w"].values for result in (fit, chains, best)),
        fit.sample(3, seed=1)["w"].values,
    ]
    return [torch.tensor(value, device="cpu") for value in values]


@pytest.fixture(scope="module")
def undisturbed() -> list[Tensor]:
    return _everything()


@pytest.mark.parametrize("kind", CONTEXTS)
def test_contexts_around_a_call_change_nothing(kind: str, undisturbed: list[Tensor]) -> None:
    with CONTEXTS[kind]():
        inside = _everything()
    for found, wanted in zip(inside, undisturbed, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


def test_data_made_in_inference_mode_are_data_like_others(problem: lvm.Problem) -> None:
    with torch.inference_mode():
        x, y = X * 1, Y * 1
    fit = lvm.fit(lvm.Problem(line, x, y), AutoNormal, max_steps=10, draws=20, engine="pyro", **QUIET)
    wanted = lvm.fit(problem, AutoNormal, max_steps=10, draws=20, engine="pyro", **QUIET)
    assert np.array_equal(fit.data["posterior"]["w"].values, wanted.data["posterior"]["w"].values)


@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64, np.uint64(2**64 - 1), np.int32(7)])
def test_any_seed_to_two_to_the_64_is_a_seed_of_its_own(problem: lvm.Problem, seed: Any, tmp_path: Path) -> None:
    def run(seed: Any) -> lvm.Fit:
        return lvm.fit(problem, AutoNormal, max_steps=2, draws=20, seed=seed, engine="pyro", **QUIET)

    first = run(seed)
    assert first.seed == int(seed)
    assert np.array_equal(first.data["posterior"]["w"], run(int(seed)).data["posterior"]["w"])
    assert not np.array_equal(first.data["posterior"]["w"], run(int(seed) % 97 + 1).data["posterior"]["w"])
    first.save(tmp_path / "fit")
    assert lvm.load(tmp_path / "fit", problem=problem).seed == int(seed)


def test_a_large_seed_is_one_of_every_method(problem: lvm.Problem) -> None:
    seed = 2**64
    lvm.fit(problem, AutoNormal, max_steps=5, draws=20, seed=seed, engine="jax", **QUIET)
    lvm.nuts(problem, chains=1, warmup=5, draws=5, seed=seed, precondition="none", **QUIET)
    lvm.infer(problem, methods=["student"], draws=50, seed=seed, **QUIET)


@pytest.mark.parametrize("seed", [-1, 1.0, None, True, "1", 2**64 + 1, np.float64(3)])
def test_what_is_no_seed_is_refused(problem: lvm.Problem, seed: Any) -> None:
    for verb in (lvm.fit, lvm.nuts, lvm.infer, lvm.exact):
        with pytest.raises(lvm.ArgumentError, match="seed must be an integer of at least 0, got"):
            verb(problem, seed=seed)


@pytest.mark.parametrize("out", ["", "/dev/null/x", "x" * 300, f"a/{'y' * 300}/b", "a\0b", 3])
def test_a_folder_that_cannot_be_is_refused_before_the_first_step(problem: lvm.Problem, out: Any) -> None:
    for verb in (lvm.fit, lvm.nuts, lvm.infer):
        with pytest.raises(lvm.ArgumentError, match=r"out(.|\n)*Fix: pass"):
            verb(problem, out=out)


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", "meta"])
@pytest.mark.skipif(
    torch.backends.mps.is_available() or torch.xpu.is_available(), reason="needs a machine without them"
)
def test_a_device_that_is_absent_is_named(problem: lvm.Problem, device: str) -> None:
    for verb in (lvm.fit, lvm.nuts, lvm.infer):
        with pytest.raises(lvm.ArgumentError, match=f"device '{device}' is not available here"):
            verb(problem, device=device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dtype_of_too_few_digits_is_refused(problem: lvm.Problem, dtype: torch.dtype) -> None:
    for verb in (lvm.fit, lvm.nuts, lvm.infer):
        with pytest.raises(lvm.ArgumentError, match="too few digits for densities"):
            verb(problem, dtype=dtype)


def test_a_change_in_place_after_the_first_run_is_named() -> None:
    runs = iter(range(10**6))

    def model(y: Tensor) -> None:
        if next(runs) == 50:
            y.add_(1.0)
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    problem = lvm.Problem(model, Y.clone())
    with pytest.warns(lvm.PyrolvmWarning, match="argument 'y' was changed in place while fit ran"):
        lvm.fit(problem, AutoNormal, max_steps=60, draws=20, engine="pyro", **QUIET)


def test_two_equal_columns_are_fitted() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=40)
    columns = np.c_[one, random.normal(size=40), one]

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
        s = pyro.sample("s", dist.HalfNormal(5.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ b, s), obs=y)

    problem = lvm.Problem(model, columns, columns @ np.array([1.0, 2.0, 0.5]) + random.normal(size=40))
    for result in (lvm.infer(problem, **QUIET), lvm.nuts(problem, chains=2, **QUIET)):
        assert result.verdict.trusted
        b = result.data["posterior"]["b"].values
        assert abs(float((b[..., 0] + b[..., 2]).mean()) - 1.5) < 0.6
