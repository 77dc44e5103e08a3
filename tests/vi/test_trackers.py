"""The course of a fit in runs of Weights & Biases and MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm


def model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def fitted(callback: Any) -> lvm.Fit:
    problem = lvm.Problem(model, torch.linspace(0.0, 2.0, 12))
    return lvm.fit(problem, "mean_field", callbacks=[callback], max_steps=120, engine="pyro", seed=0, progress=False)


class Run:
    """What a tracker's run takes."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def log(self, numbers: dict[str, float]) -> None:
        self.logged.append(numbers)


def test_a_run_has_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", type(sys)("wandb"))
    run = Run()
    fit = fitted(lvm.callbacks.WandB(run, every=50))
    assert [one["step"] for one in run.logged] == list(range(len(run.logged))) and len(run.logged) >= 100
    np.testing.assert_allclose([one["loss"] for one in run.logged], fit.losses[: len(run.logged)])
    assert sum(any(name.startswith("rms/") for name in one) for one in run.logged) >= 2


@pytest.mark.parametrize(("name", "callback"), [("wandb", "WandB"), ("mlflow", "MLflow")])
def test_what_is_not_installed_is_said(name: str, callback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"Fix: pip install 'pyrolvm\[{name}\]'"):
        getattr(lvm.callbacks, callback)()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    run = wandb.init(mode="offline", dir=str(tmp_path), project="test", settings=wandb.Settings(silent=True))
    try:
        fit = fitted(lvm.callbacks.WandB(every=40))
        assert run.summary["loss"] == pytest.approx(fit.losses[int(run.summary["step"])])
    finally:
        run.finish()
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as run:
        fit = fitted(lvm.callbacks.MLflow(every=40))
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    np.testing.assert_allclose(
        [one.value for one in sorted(history, key=lambda one: one.step)], fit.losses[: len(history)]
    )
