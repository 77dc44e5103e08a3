"""Folders that cannot be made or written to: an error that names them, and before the first step where one can be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm


def model(y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.fixture(scope="module")
def fit() -> lvm.Fit:
    problem = lvm.Problem(model, torch.tensor([0.1, 0.5, 0.3]))
    return lvm.fit(problem, "mean_field", max_steps=2, draws=10, progress=False, engine="pyro")


@pytest.fixture(params=["/proc/x/y", "below a file", "/dev/null/x", "of 300 letters", "a\0b", "a\ud800", "read-only"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "shut").mkdir(mode=0o500)
    if request.param == "read-only" and os.getuid() == 0:
        pytest.skip("root may write anywhere")
    known = {
        "below a file": str(tmp_path / "file" / "x" / "y"),
        "of 300 letters": str(tmp_path / ("n" * 300)),
        "read-only": str(tmp_path / "shut" / "x"),
    }
    yield known.get(request.param, request.param)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "shut"] and not any(
        (tmp_path / "shut").iterdir()
    )


def test_a_result_is_not_saved_where_no_folder_can_be(closed: str, fit: lvm.Fit) -> None:
    with pytest.raises(lvm.StoreError, match=r"cannot be written to: .*Fix: name a folder") as caught:
        fit.save(closed)
    assert repr(closed) in str(caught.value)


@pytest.mark.parametrize(
    "verb",
    [
        lambda problem, **to: lvm.fit(problem, "mean_field", **to),
        lambda problem, **to: lvm.nuts(problem, **to),
        lambda problem, **to: lvm.calibrate(problem, "mean_field", simulations=2, **to),
    ],
    ids=["fit", "nuts", "calibrate"],
)
def test_a_run_does_not_begin_where_no_folder_can_be(
    verb: Callable[..., Any], closed: str, fit: lvm.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lvm.Problem, "session", None)  # nothing runs
    with pytest.raises(lvm.ArgumentError, match=r"out=.* cannot be (made|a folder).*Fix:") as caught:
        verb(fit.problem, progress=False, out=closed)
    assert repr(closed) in str(caught.value)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_run_into_a_folder_that_cannot_be_made_does_not_begin(
    number: int, fit: lvm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", full)
    monkeypatch.setattr(lvm.Problem, "session", None)
    for out in (tmp_path / "new", tmp_path / "new" / "below"):
        with pytest.raises(lvm.ArgumentError, match=rf"takes no new folder \({os.strerror(number)}\).*Fix:"):
            lvm.fit(fit.problem, "mean_field", progress=False, out=out)
