from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._base.explain import at_the_door

Y = torch.tensor([0.3, -0.2, 0.9])


class _Late:
    """A program that goes wrong after so many runs."""

    __name__ = "late"

    def __init__(self, error: Exception, runs: int) -> None:
        self.error, self.runs = error, runs

    def __call__(self, y):
        self.runs -= 1
        if self.runs < 0:
            raise self.error
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


ERRORS = [KeyError("x"), StopIteration(), AssertionError(), ZeroDivisionError("division by zero")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("run", [lvm.fit, lvm.nuts], ids=["fit", "nuts"])
def test_what_a_program_raises_long_after_it_was_read_names_its_line(run, error):
    problem = lvm.Problem(_Late(error, 3), Y)
    with pytest.raises(lvm.PyrolvmError, match=r"test_door\.py:\d+: `raise self\.error`"):
        run(problem, engine="pyro", progress=False)


@pytest.mark.parametrize("error", ERRORS[:3], ids=lambda e: type(e).__name__)
def test_what_a_program_raises_at_once_is_named(error):
    with pytest.raises(lvm.ProblemError, match=type(error).__name__):
        lvm.Problem(_Late(error, 0), Y)


def test_a_bare_exception_of_ours_does_not_blame_a_line_of_the_user_s():
    @at_the_door
    def method():
        return next(iter({}))

    method.__wrapped__.__code__ = method.__wrapped__.__code__.replace(co_filename=lvm.__file__)
    with pytest.raises(lvm.ProblemError, match="method stopped: StopIteration") as found:
        method()
    assert "mend" not in str(found.value)
