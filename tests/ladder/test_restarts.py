"""Restarts: the same method with other seeds, and what the verdict makes of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.infer.restarts import with_restarts


def model(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def _data(shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return shift + scale * torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _fit(y: Tensor, seed: int = 0) -> lvm.Fit:
    result = lvm.infer(lvm.Problem(model, y), methods=["student"], seed=seed, draws=4_000, progress=False)
    assert isinstance(result, lvm.Fit)
    return result


def test_restarts_that_agree_are_a_reason_to_trust() -> None:
    problem = lvm.Problem(model, _data())
    result = lvm.infer(problem, methods=["student"], restarts=2, draws=4_000, progress=False)
    assert result.verdict.trusted
    (reason,) = [one for one in result.verdict.reasons if "restarts" in one.figures]
    assert reason.status == "trusted"
    assert reason.figures["restarts"] == 2
    assert 0 < reason.figures["restart shift"] < 0.1  # not the very same draws again
    plain = lvm.infer(problem, methods=["student"], draws=4_000, progress=False)
    assert not any("restarts" in one.figures for one in plain.verdict.reasons)
    assert result.data["posterior"].equals(plain.data["posterior"])


@pytest.mark.parametrize(("shift", "scale", "named"), [(1.0, 1.0, "mean"), (0.0, 1.6, "scale")])
def test_restarts_that_differ_are_a_reason_to_doubt(shift: float, scale: float, named: str) -> None:
    first, other = _fit(_data()), _fit(_data(shift, scale), seed=1)
    assert first.verdict.trusted
    verdict = with_restarts(first, [_fit(_data(), seed=2), other]).verdict
    assert verdict.status == "doubtful"
    (reason,) = [one for one in verdict.reasons if "restarts" in one.figures]
    assert f"`{named}`" in reason.text
    assert verdict.next_steps


def test_restarts_are_kept_with_the_result(tmp_path: object) -> None:
    result = with_restarts(_fit(_data()), [_fit(_data(), seed=2)])
    result.save(f"{tmp_path}/run")
    again = lvm.load(f"{tmp_path}/run")
    assert [one.text for one in again.verdict.reasons] == [one.text for one in result.verdict.reasons]


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(lvm.ArgumentError, match=r"restarts.*-1.*Fix:"):
        lvm.infer(lvm.Problem(model, _data()), restarts=-1, progress=False)
