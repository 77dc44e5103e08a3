"""A process that gets no more memory says so, whatever says it first; an assertion without words is shown."""

from __future__ import annotations

import errno

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import OutOfMemoryError
from pyrolvm._base.explain import at_the_door, reason

SHORT = [
    MemoryError(),
    MemoryError("no memory for a step of the compiled objective"),
    ImportError("/lib/x.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    ),
    RuntimeError("can't start new thread"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 80000 bytes."),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_short_memory_is_an_error_of_its_own(error: Exception) -> None:
    @at_the_door
    def fit() -> None:
        raise error

    with pytest.raises(
        OutOfMemoryError, match=r"^fit stopped, since the process got no more memory: .*Fix: allow it more"
    ) as caught:
        fit()
    assert isinstance(caught.value, lvm.PyrolvmError) and isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), FileNotFoundError(2, "No such file")]
)
def test_other_errors_of_the_system_are_not_short_memory(error: OSError) -> None:
    @at_the_door
    def fit() -> None:
        raise error

    with pytest.raises(OSError, match=error.strerror):
        fit()


@pytest.mark.parametrize("count", [1, 3])
def test_an_assertion_without_words_is_shown_itself(count: int) -> None:
    hmm = dist.DiscreteHMM(torch.zeros(count), torch.zeros(count, count), dist.Normal(torch.zeros(count), 1.0))
    with pytest.raises(AssertionError) as caught:
        hmm.sample()
    assert reason(caught.value) == "AssertionError: assert self.duration is not None."


def test_predictions_of_a_chain_without_a_length_cost_their_groups_alone() -> None:
    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), torch.zeros(2, 2), dist.Normal(mean, 1.0)), obs=y)

    problem = lvm.Problem(model, torch.tensor([0.3, 1.2, -0.4, 0.9]))
    fit = lvm.fit(problem, "mean_field", max_steps=3, draws=10, progress=False, engine="pyro")
    assert {"posterior", "log_likelihood", "log_prior", "observed_data"} <= {*fit.data.children}
    missing = [reason.text for reason in fit.verdict.reasons if "could not be made" in reason.text]
    assert len(missing) == 2 and all("assert self.duration is not None" in text for text in missing)
